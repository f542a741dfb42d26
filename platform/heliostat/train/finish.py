"""The last step of a training: the best checkpoint, with its head's decision fitted on the valid split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from heliostat import checkpoint
from heliostat.component import Row
from heliostat.data.prepared import Prepared
from heliostat.data.split import groups_of
from heliostat.plugin import DataAdapter, TaskHead
from heliostat.predict import Predictor
from heliostat.registry import find
from heliostat.run import Run


def finished_model(folder: Path, best: Path, prepared: Prepared) -> Path:
    """The checkpoint to evaluate and to serve: `best` itself, or `folder/model` where its head calibrates.

    `folder/model` holds the same weights, what the head has learned from its answers on the valid split, golden answers
    made anew, and no training state.
    """
    predictor = Predictor.load(best)
    head = predictor.head
    if type(head).calibrate is TaskHead.calibrate:
        return best
    examples = list(prepared.examples("valid"))
    asked = [{name: row[name] for name in head.takes.model_fields if name in row} for row in examples]
    groups = groups_of(predictor.run.data.split, examples, _split_by(predictor.run, examples))
    if not head.calibrate(examples, predictor.predict(asked), groups):
        return best
    return _written(folder / "model", best, head)


def _split_by(run: Run, examples: Sequence[Row]) -> tuple[str, ...]:
    """The fields by which the data were split where the run names no key, as far as prepared examples carry them."""
    named = find(run.data.adapter.type, DataAdapter).split_by  # type: ignore[type-abstract]
    is_carried = bool(named) and all(name in row for row in examples for name in named)
    return named if is_carried else tuple(find(run.head.type, TaskHead).takes.model_fields)  # type: ignore[type-abstract]


def _written(model: Path, best: Path, head: TaskHead) -> Path:
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(best, model, ignore=shutil.ignore_patterns("state", checkpoint.MANIFEST))
    head.save(model / "head")
    (model / "golden.jsonl").write_text("", encoding="utf-8")
    checkpoint.seal(model, {})
    samples = [dict(sample) for sample in head.samples]
    answers = Predictor.load(model).predict(samples)
    lines = [
        json.dumps({"example": example, "prediction": answer}, ensure_ascii=False)
        for example, answer in zip(samples, answers, strict=True)
    ]
    (model / "golden.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    checkpoint.seal(model, {"trainer": checkpoint.read_manifest(best).get("trainer", {})})
    return model
