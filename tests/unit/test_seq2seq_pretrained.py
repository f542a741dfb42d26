"""Sequence to sequence from a model of core.denoising: its weights and its vocabulary are gone on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heliostat import checkpoint
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.encoders.seq2seq_text import Seq2SeqTextEncoder
from heliostat.encoders.text import TextEncoder
from heliostat.errors import RunError
from heliostat.predict import Predictor
from heliostat.run import Run, check
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker

Make = Callable[..., tuple[Run, Prepared]]


def pretrained(address: Path | str, **settings: Any) -> Seq2SeqTextEncoder:
    config = {"pretrained": str(address), "max_tokens": 40, **settings}
    return Seq2SeqTextEncoder(Seq2SeqTextEncoder.Config.model_validate(config))


def test_a_denoising_model_is_fine_tuned_and_not_needed_afterwards(
    objective_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    fit(*objective_run("denoising", epochs=1), LocalWorker(), tmp_path / "parent")
    parent = checkpoint.newest(tmp_path / "parent" / "checkpoints")
    assert parent
    rows = [{"text": f"waves follow the {word}", "answer": f"the {word} follow"} for word in ("salt", "sand", "deer")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
    run = check(
        {
            "name": "words",
            "data": {
                "adapter": "core.columns",
                "source": str(tmp_path / "pairs.jsonl"),
                "split": {"valid": 0.4, "test": 0},
            },
            "encoder": {"type": "core.seq2seq_text", "pretrained": str(parent), "max_tokens": 40, "dropout": 0.2},
            "head": {"type": "core.seq2seq", "beams": 1},
            "train": {"epochs": 1, "tokens_per_batch": 400, "precision": "fp32", "trackers": []},
        }
    )
    prepared = prepare(run)
    parts = prepared.parts(run)
    begins, kept = parts.encoder.module().state_dict(), Predictor.load(parent).model.encoder.state_dict()
    assert begins.keys() == kept.keys()
    assert all(torch.equal(begins[name], kept[name]) for name in kept)
    fit(run, prepared, LocalWorker(), tmp_path / "run")
    shutil.rmtree(tmp_path / "parent")
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert newest
    assert Predictor.load(newest).predict([{"text": "waves follow the salt"}])


def test_models_of_others_and_settings_of_a_preset_are_refused(tmp_path: Path) -> None:
    bert = TextEncoder(TextEncoder.Config(preset="tiny", vocab_size=300))
    bert.fit([{"text": "one two"}])
    bert.save(tmp_path)
    bert.save_weights(module := bert.module(), tmp_path, module.state_dict())
    for address in (tmp_path, "facebook/mbart-large-cc25"):
        with pytest.raises(RunError, match=r"is no model of core.seq2seq_text.* or set encoder.preset"):
            pretrained(address).fit([])
    for key, value in (("target", "answer"), ("decoder_layers", 1), ("adapter", {"type": "lora"})):
        with pytest.raises(ValueError, match=f"{key} has no effect beside encoder.pretrained"):
            pretrained(tmp_path, **{key: value})


def test_longer_texts_than_it_has_places_for_are_refused(tmp_path: Path) -> None:
    made = Seq2SeqTextEncoder(Seq2SeqTextEncoder.Config(preset="tiny", vocab_size=300, max_tokens=32))
    made.fit([{"text": "one two"}])
    made.save(tmp_path)
    made.save_weights(module := made.module(), tmp_path, module.state_dict())
    with pytest.raises(RunError, match=r"takes at most 32. Set encoder.max_tokens=32 or less"):
        pretrained(tmp_path).fit([])
    again = pretrained(tmp_path, max_tokens=16)
    again.fit([])
    assert again.spec().max_tokens == 16
    assert all(torch.equal(again.module().state_dict()[name], tensor) for name, tensor in module.state_dict().items())
