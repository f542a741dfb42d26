"""DDP and FSDP2 are one worker in disguise: the same curve, the same checkpoint, whatever the number of workers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from heliostat import checkpoint
from heliostat.data.prepared import Prepared
from heliostat.predict import Predictor
from heliostat.run import Run
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads

FEW = {"tokens_per_batch": 1, "max_steps": 6}
"""One example a batch: all workers but one have none."""
EMA = {"ema": 0.9, "activation_checkpointing": True, "max_steps": 12}
MUON = {"optimizer": {"type": "muon"}, "max_steps": 6}


class Played(NamedTuple):
    """All scenarios of this file, trained."""

    folders: dict[str, Path]
    told: dict[str, list[dict[str, Any]]]
    prepared: Prepared


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in _rows(folder) if "loss" in row]


def _valid(folder: Path) -> list[float]:
    return [row["valid/loss"] for row in _rows(folder) if "valid/loss" in row]


def _newest(folder: Path) -> Path:
    path = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    return path


def _local(run: Run, prepared: Prepared, folder: Path) -> Path:
    fit(run, prepared, LocalWorker(), folder)
    return folder


@pytest.fixture(scope="module")
def played(make: Any, play: Any, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One worker in this process; two and four in a gang, each way."""
    set_threads(1)
    folder = tmp_path_factory.mktemp("parallel")
    _, prepared = make()
    alone = {
        name: _local(*make(**train), folder / name)
        for name, train in (("1", {}), ("1-few", FEW), ("1-ema", EMA), ("1-muon", MUON))
    }
    base = {"pretrained": str(_newest(alone["1"]) / "encoder"), "adapter": {"type": "lora", "rank": 2}}
    alone["1-lora"] = _local(*make(encoder=base, max_steps=8), folder / "1-lora")
    wanted: dict[str, tuple[int, str, dict[str, Any]]] = {
        "ddp-2": (2, "ddp", {}),
        "ddp-4": (4, "ddp", {}),
        "fsdp-2": (2, "fsdp", {}),
        "fsdp-4": (4, "fsdp", {}),
        "fsdp-4-few": (4, "fsdp", FEW),
        "fsdp-2-ema": (2, "fsdp", EMA),
        "fsdp-2-lora": (2, "fsdp", {"encoder": base, "max_steps": 8}),
        "fsdp-2-muon": (2, "fsdp", MUON),
        "fsdp-2-bf16": (2, "fsdp", {"precision": "bf16"}),
    }
    scenarios = []
    for name, (size, strategy, train) in wanted.items():
        run, data = make(size, strategy, **train)
        scenarios.append(
            {"world_size": size, "run": run.dump(), "prepared": str(data.folder), "folder": str(folder / name)}
        )
    told = dict(zip(wanted, play(scenarios), strict=True))
    return Played({**alone, **{name: folder / name for name in wanted}}, told, prepared)


@pytest.mark.parametrize("name", ["ddp-2", "ddp-4", "fsdp-2", "fsdp-4"])
def test_the_curve_of_fifty_steps_is_that_of_one_worker(played: Played, name: str) -> None:
    alone, together = played.folders["1"], played.folders[name]
    assert len(_losses(alone)) == 50
    assert _losses(together) == pytest.approx(_losses(alone), rel=1e-4)
    assert _valid(together) == pytest.approx(_valid(alone), rel=1e-4)
    strategy, _, size = name.partition("-")
    in_effect = checkpoint.verify(_newest(together))["trainer"]["in_effect"]
    assert (in_effect["strategy"], in_effect["world_size"]) == (strategy, int(size))
    shares = 1 if strategy == "ddp" else int(size)
    assert {round(rank["held"] * shares / in_effect["parameters"], 1) for rank in played.told[name]} <= {0.9, 1.0, 1.1}


@pytest.mark.parametrize(
    ("name", "alone"), [("fsdp-4-few", "1-few"), ("fsdp-2-ema", "1-ema"), ("fsdp-2-lora", "1-lora")]
)
def test_so_it_is_without_rows_under_an_average_and_with_an_adapter(played: Played, name: str, alone: str) -> None:
    assert _losses(played.folders[name]) == pytest.approx(_losses(played.folders[alone]), rel=1e-4)
    assert _valid(played.folders[name]) == pytest.approx(_valid(played.folders[alone]), rel=1e-4)
    ours, theirs = (_newest(played.folders[each]) for each in (name, alone))
    names = {str(path.relative_to(ours)) for path in ours.rglob("*.safetensors")}
    assert names == {str(path.relative_to(theirs)) for path in theirs.rglob("*.safetensors")}
    for path in names:
        mine, other = checkpoint.read_tensors(ours / path), checkpoint.read_tensors(theirs / path)
        assert mine.keys() == other.keys()
        for tensor in mine:
            torch.testing.assert_close(mine[tensor], other[tensor], rtol=5e-3, atol=5e-4)


def test_muon_sees_whole_matrices_of_shards(played: Played) -> None:
    # It orthogonalises in bf16, where another order of the same sum is another last bit.
    assert _losses(played.folders["fsdp-2-muon"]) == pytest.approx(_losses(played.folders["1-muon"]), rel=1e-2)


def test_bf16_shards_follow_the_curve_of_fp32_from_afar(played: Played) -> None:
    curve = torch.tensor(_losses(played.folders["fsdp-2-bf16"]))
    assert bool(((curve - torch.tensor(_losses(played.folders["1"]))).abs() < 0.05).all())
    weights = checkpoint.read_tensors(_newest(played.folders["fsdp-2-bf16"]) / "encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["ddp-4", "fsdp-4", "fsdp-2"])
def test_each_example_is_seen_once_an_epoch(played: Played, name: str) -> None:
    ids = sorted(int(each) for each in played.prepared.shards("train").ids)
    epochs: dict[int, list[int]] = {}
    for rank in played.told[name]:
        for epoch, seen in rank["seen"]:
            epochs.setdefault(epoch, []).extend(seen)
    whole = sorted(epochs)[:-1]
    assert len(whole) >= 3
    assert all(sorted(epochs[epoch]) == ids for epoch in whole)


def test_a_checkpoint_of_two_shards_is_a_plain_one(played: Played) -> None:
    from transformers import AutoModel

    folder = _newest(played.folders["fsdp-2"])
    model, report = AutoModel.from_pretrained(folder / "encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    alone = AutoModel.from_pretrained(_newest(played.folders["1"]) / "encoder")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize("name", ["fsdp-2", "fsdp-2-ema", "fsdp-2-lora", "fsdp-2-bf16"])
def test_golden_answers_of_shards_are_those_of_the_loaded_model(played: Played, name: str) -> None:
    predictor = Predictor.load(_newest(played.folders[name]))
    golden = predictor.golden()
    assert len(golden) == 2
    for (_, expected), found in zip(golden, predictor.predict([example for example, _ in golden]), strict=True):
        assert found["label"] == expected["label"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


@pytest.fixture(scope="module")
def changed(make: Any, play: Any, played: Played, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two shards stopped after 17 steps; then gone on with on one, two and four. And 2 -> 1 -> 2 workers."""
    folder = tmp_path_factory.mktemp("changed")

    def scene(size: int, strategy: str, name: str, stop_at: int | None = None, **train: Any) -> dict[str, Any]:
        run, data = make(max(size, 2), strategy, **train)
        place = {"prepared": str(data.folder), "folder": str(folder / name)}
        return {"world_size": size, "run": run.dump(), "stop_at": stop_at, **place}

    play([scene(2, "fsdp", "stopped", 17)])
    for name in ("on-1", "on-2", "on-4", "alone", "on-ddp"):
        shutil.copytree(folder / "stopped", folder / name)
    run, prepared = make()
    _local(run, prepared, folder / "alone")
    on = [scene(size, "fsdp", f"on-{size}") for size in (1, 2, 4)]
    elastic = [scene(size, "ddp", "elastic", stop, epochs=3) for size, stop in ((2, 4), (1, 6), (2, None))]
    shards = [scene(size, "fsdp", "shards", stop, epochs=3, ema=0.9) for size, stop in ((2, 4), (1, 6), (4, None))]
    told = play([*on, scene(2, "ddp", "on-ddp"), *elastic, *shards])
    return {"folder": folder, "elastic": told[4:7], "shards": told[7:]}


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["alone", "on-1", "on-2", "on-4", "on-ddp"])
def test_two_shards_go_on_with_any_number(changed: dict[str, Any], played: Played, name: str) -> None:
    assert _losses(changed["folder"] / name) == pytest.approx(_losses(played.folders["1"]), rel=1e-4)
    assert _newest(changed["folder"] / name).name == "step-00000050"


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["elastic", "shards"])
def test_a_change_of_workers_in_mid_epoch_loses_and_repeats_no_example(
    changed: dict[str, Any], played: Played, name: str
) -> None:
    ids = sorted(int(each) for each in played.prepared.shards("train").ids)
    assert len(set(ids)) == 65
    epochs: dict[int, list[int]] = {}
    for part in changed[name]:
        for rank in part:
            for epoch, seen in rank["seen"]:
                epochs.setdefault(epoch, []).extend(seen)
    stops = [part[0]["ended"] for part in changed[name]]
    assert [stop[:19] for stop in stops] == ["stopped after step ", "stopped after step ", ""]
    assert {epoch: sorted(seen) for epoch, seen in epochs.items()} == {0: ids, 1: ids, 2: ids}
