"""Checks from the settings to the predictions of a trained checkpoint."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

from heliostat.errors import Stopped
from heliostat.plugin import MeasuringModule, TaskHead
from heliostat.run import check, render
from heliostat.testing.rehearsal import Fault, Rehearsal
from heliostat.yaml12 import parse


def settings_round_trip(rehearsal: Rehearsal) -> str:
    """The run equals what its own JSON and its own YAML read back as."""
    run = rehearsal.run
    if check(json.loads(json.dumps(run.dump()))) != run or check(parse(render(run), "")) != run:
        raise Fault("a setting reads back as another value. Use plain types in Config: str, int, float, bool, tuple.")
    return f"{run.data.adapter.type}, {run.encoder.type}, {run.head.type}"


def raw_to_loss(rehearsal: Rehearsal) -> str:
    """The source is read, and one batch gives a finite sum for each term that is counted, and finite gradients."""
    import torch

    batch, model, head = rehearsal.batch(), rehearsal.fresh_model(), rehearsal.parts.head
    terms, counts = model(batch), head.counts(batch)
    if set(terms) != set(counts):
        raise Fault(f"loss() gives the terms {sorted(terms)} and counts() {sorted(counts)}; they must be the same.")
    unknown = sorted(set(head.weights()) - set(terms))
    if unknown:
        raise Fault(f"weights() names '{unknown[0]}', which is no term of the loss: {', '.join(sorted(terms))}.")
    for name, value in terms.items():
        if value.dim() != 0 or not math.isfinite(float(value.detach())):
            raise Fault(f"the term '{name}' of the loss must be one finite number; found {value.detach()}.")
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not any(bool(grad.abs().sum() > 0) for grad in grads):
        raise Fault("no weight gets a gradient: compute the loss from the features, without detach() or no_grad().")
    if not all(bool(grad.isfinite().all()) for grad in grads):
        raise Fault("a gradient is not finite.")
    return f"{', '.join(f'{split} {count}' for split, count in rehearsal.prepared.counts.items())} examples"


def loss_falls(rehearsal: Rehearsal) -> str:
    """The trained model's loss on train examples lies below the fresh model's."""
    before, after = rehearsal.loss(rehearsal.fresh_model()), rehearsal.loss(rehearsal.predictor.model)
    if not after < before:
        raise Fault(
            f"the loss on train examples went from {before:.4g} to {after:.4g}. Try another train.lr or epochs."
        )
    return f"{before:.4g} -> {after:.4g} in {rehearsal.trained.steps} steps"


def predicts(rehearsal: Rehearsal) -> str:
    """Each question gets one row of plain JSON with the fields that the head declares, after a second load too."""
    import torch

    from heliostat.predict import Predictor

    predictor, questions = rehearsal.predictor, rehearsal.questions
    head = rehearsal.parts.head
    if not head.samples:
        raise Fault(
            f"{type(head).__name__}.samples is empty: declare a few made-up records for demo and golden requests."
        )
    drawn = torch.get_rng_state()
    answers = predictor.predict(questions)
    if not torch.equal(drawn, torch.get_rng_state()):
        raise Fault(
            "predict draws from torch's own generator. A checkpoint's golden answers are computed while training goes "
            "on, whose draws would change: draw from a torch.Generator."
        )
    if len(answers) != len(questions):
        raise Fault(f"{len(questions)} examples got {len(answers)} predictions; each must get one.")
    for answer in answers:
        if json.loads(json.dumps(answer)) != answer:
            raise Fault(f"a prediction is not plain JSON: {answer!r}. Convert tensors with .tolist().")
        type(head).gives.model_validate(answer)
    if predictor.predict(questions[::-1])[::-1] != answers and not _close(
        predictor.predict(questions[::-1])[::-1], answers
    ):
        raise Fault("a prediction depends on the other examples of its batch.")
    if Predictor.load(rehearsal.trained.checkpoint).predict(questions) != answers:
        raise Fault("the checkpoint, loaded again, answers differently. Keep what is fitted in save() and load().")
    predictor.check_golden()
    return f"{len(answers)} answers"


def _close(one: Any, other: Any) -> bool:
    """Equal but for the order of floating-point sums."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == other)


def tallies_add_up(rehearsal: Rehearsal) -> str:
    """The tally of a batch is the sum of its halves' tallies, and scores come from it."""
    import numpy as np
    import torch

    head, model = rehearsal.parts.head, rehearsal.predictor.model
    if type(head).tally is TaskHead.tally and not isinstance(model.head, MeasuringModule):
        if head.selects != "loss":
            raise Fault(f"selects is '{head.selects}', and without tally() there is no score but 'loss'.")
        return "no tally: the best checkpoint is chosen by loss"
    size = len(rehearsal.batch())
    batches = [rehearsal.batch(), rehearsal.batch(0, size // 2), rehearsal.batch(size // 2, size)]
    with torch.no_grad():
        answers = model.predict(batches[0])
        measures = [model.validate(batch, predict=False).measures for batch in batches]
    parts = (answers, answers[: size // 2], answers[size // 2 :])
    whole, first, second = (
        {**head.tally(batch, rows), **{name: value.numpy(force=True) for name, value in measured.items()}}
        for batch, rows, measured in zip(batches, parts, measures, strict=True)
    )
    for name, value in whole.items():
        if not np.allclose(value, np.asarray(first[name]) + np.asarray(second[name]), rtol=1e-4):
            raise Fault(f"tally '{name}' of a batch is not the sum of its halves'. Give sums and counts, never means.")
    scores = head.scores(whole)
    if head.selects != "loss" and head.selects not in scores:
        raise Fault(f"selects is '{head.selects}', and scores() gives {', '.join(scores) or 'none'}.")
    return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())


def resumes(rehearsal: Rehearsal) -> str:
    """A run that is stopped half-way and continued ends with the very weights and optimiser of the one that was not."""
    from heliostat.train import run_folder
    from heliostat.train.loop import fit
    from heliostat.train.worker import LocalWorker

    folder, steps = run_folder.create(rehearsal.run), 0
    half = max(1, rehearsal.trained.steps // 2)

    def half_way() -> bool:
        nonlocal steps
        steps += 1
        return steps == half

    try:
        fit(rehearsal.run, rehearsal.prepared, LocalWorker(half_way), folder)
    except Stopped:
        fit(rehearsal.run, rehearsal.prepared, LocalWorker(), folder)
    unbroken, broken = _last_weights(rehearsal.trained.folder), _last_weights(folder)
    differing = sorted(name for name in unbroken if unbroken[name] != broken.get(name))
    if differing:
        raise Fault(
            f"{differing[0]} differs after a resume at step {half}. Draw random numbers in prepare() from `draws`, and "
            "keep no state in modules but parameters and buffers."
        )
    return f"stopped at step {half} of {rehearsal.trained.steps}"


def _last_weights(folder: Path) -> dict[str, str]:
    last = max((folder / "checkpoints").glob("step-*"))
    files = sorted(last.rglob("*.safetensors"))
    return {str(file.relative_to(last)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def evaluates(rehearsal: Rehearsal) -> str:
    """Its metrics score a split that was not learned from, beside its baselines, and a report is written."""
    from heliostat.evaluate import evaluate

    head, counts = rehearsal.predictor.head, rehearsal.prepared.counts
    if not head.metrics():
        return "no metrics: there is no report"
    split: Literal["test", "valid"] = "test" if counts["test"] else "valid"
    if not counts[split]:
        return "no example to score"
    with tempfile.TemporaryDirectory(prefix="heliostat-report-") as folder:
        report = evaluate(rehearsal.predictor, rehearsal.prepared, Path(folder), split=split)
    if infinite := [name for name, score in report.scores.items() if math.isinf(score.value)]:
        raise Fault(f"metric '{infinite[0]}' is infinite. Give NaN where a score is undefined.")
    scores = ", ".join(f"{name} {score.value:.3f}" for name, score in report.scores.items())
    return f"{scores} on {split}; baselines: {', '.join(report.baselines) or 'none'}"
