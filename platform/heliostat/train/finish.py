"""The last step of a training: the best checkpoint, with its head's decision fitted on the valid split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from heliostat import checkpoint
from heliostat.data.prepared import Prepared
from heliostat.data.split import groups_of
from heliostat.plugin import TaskHead
from heliostat.predict import Predictor


def finished_model(folder: Path, best: Path, prepared: Prepared) -> Path:
    """The checkpoint to evaluate and to serve: `best` itself, or `folder/model` where its head calibrates.

    `folder/model` holds the same weights, what the head has learned from its answers on the valid split, golden answers
    made anew, and no training state. A model that learned from the valid split itself is left as it is: its answers
    there say nothing.
    """
    predictor = Predictor.load(best)
    head = predictor.head
    if type(head).calibrate is TaskHead.calibrate or predictor.run.train.learns_from != "train":
        return best
    examples = list(prepared.examples("valid"))
    asked = [{name: row[name] for name in head.takes.model_fields if name in row} for row in examples]
    groups = groups_of(predictor.run, examples)
    if not head.calibrate(examples, predictor.predict(asked), groups):
        return best
    return _written(folder / "model", best, head)


def calibrated_as(folder: Path, best: Path, other: Path) -> Path:
    """`folder/model`: the weights of `best` with the calibration of the model `other`, whose head was fitted alike."""
    head = Predictor.load(best).head
    head.load(other / "head")
    return _written(folder / "model", best, head)


def _written(model: Path, best: Path, head: TaskHead) -> Path:
    """It passes for whole before it has its golden answers, so it gets its name when it has them."""
    staged = model.with_name(f".{model.name}")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(best, staged, ignore=shutil.ignore_patterns("state", checkpoint.MANIFEST))
    head.save(staged / "head")
    (staged / "golden.jsonl").write_text("", encoding="utf-8")
    checkpoint.seal(staged, {})
    samples = [dict(sample) for sample in head.samples]
    answers = Predictor.load(staged).predict(samples)
    lines = [
        json.dumps({"example": example, "prediction": answer}, ensure_ascii=False)
        for example, answer in zip(samples, answers, strict=True)
    ]
    (staged / "golden.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    checkpoint.seal(staged, {"trainer": checkpoint.read_manifest(best).get("trainer", {})})
    shutil.rmtree(model, ignore_errors=True)
    return staged.rename(model)
