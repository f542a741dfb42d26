"""The decision over class probabilities: it serves the macro-F1, and keeps probabilities as likely as it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score, log_loss

from heliostat.data.split import key_fields
from heliostat.evaluate.evaluation import drawn
from heliostat.heads.classification import Classification
from heliostat.heads.decision import fit_decision
from heliostat.run import check


def _rows(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is right about the odds of three classes, one of them rare."""
    dice = np.random.default_rng(seed)
    targets = dice.choice(3, num_rows, p=[0.8, 0.15, 0.05])
    evidence = dice.normal(size=(num_rows, 3)) + 1.2 * np.eye(3)[targets]
    scores = 1.2 * evidence + np.log([0.8, 0.15, 0.05])
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return probabilities, targets


def _decided(probabilities: np.ndarray, offsets: tuple[float, ...], temperature: float) -> np.ndarray:
    scores = (np.log(probabilities) + offsets) / temperature
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_the_macro_f1_rises_on_rows_that_were_not_seen() -> None:
    decision = fit_decision(*_rows(4000, seed=1))
    probabilities, targets = _rows(20_000, seed=2)
    plain = f1_score(targets, probabilities.argmax(1), average="macro")
    decided = f1_score(targets, _decided(probabilities, *decision).argmax(1), average="macro")
    assert decided > plain + 0.02


def test_the_temperature_keeps_moved_probabilities_as_likely_as_it_can() -> None:
    probabilities, targets = _rows(4000, seed=1)
    offsets, temperature = fit_decision(probabilities, targets)
    fitted = log_loss(targets, _decided(probabilities, offsets, temperature))
    for other in (temperature * 0.8, temperature * 1.25):
        assert fitted <= log_loss(targets, _decided(probabilities, offsets, other))


def test_a_head_keeps_its_decision(tmp_path: Path) -> None:
    probabilities, targets = _rows(500, seed=3)
    labels = ("a", "b", "c")
    head = Classification(Classification.Config(labels=labels, decide="macro_f1"))
    head.fit({"label": labels[target]} for target in targets)
    examples = [{"label": labels[target]} for target in targets]
    predictions = [{"probabilities": dict(zip(labels, row, strict=True))} for row in probabilities.tolist()]
    assert head.calibrate(examples, predictions)
    head.save(tmp_path)
    again = Classification(head.config)
    again.load(tmp_path)
    assert again.decision == head.decision
    assert again.decision is not None


def test_the_most_probable_class_needs_no_fitting() -> None:
    head = Classification(Classification.Config(labels=("a", "b")))
    assert not head.calibrate([{"label": "a"}], [{"probabilities": {"a": 0.2, "b": 0.8}}])
    assert head.decision is None


def test_offsets_that_fit_only_noise_are_left_out() -> None:
    dice = np.random.default_rng(5)
    targets = dice.integers(0, 3, 300)
    sure = np.full((300, 3), 0.05)
    sure[np.arange(300), np.where(dice.random(300) < 0.9, targets, dice.integers(0, 3, 300))] = 0.9
    assert fit_decision(sure / sure.sum(1, keepdims=True), targets).offsets == (0.0, 0.0, 0.0)


def test_offsets_that_suit_only_siblings_are_left_out() -> None:
    dice = np.random.default_rng(6)
    groups = np.repeat(np.arange(30), 60)
    targets = np.repeat(dice.integers(0, 3, 30), 60)
    # A model errs in the same way about all rows of a group, so that offsets fitted on some of them mend the others.
    errs = np.repeat(dice.normal(size=(30, 3)), 60, 0) + 0.05 * dice.normal(size=(1800, 3))
    scores = np.exp(1.5 * np.eye(3)[targets] + 1.2 * errs)
    probabilities = scores / scores.sum(1, keepdims=True)
    assert any(fit_decision(probabilities, targets).offsets)
    assert not any(fit_decision(probabilities, targets, groups).offsets)


def test_a_decision_is_judged_over_what_the_adapter_keeps_together() -> None:
    run = check(
        {
            "name": "together",
            "data": {"adapter": {"type": "core.documents", "text": "text"}, "source": "texts.csv"},
            "encoder": {"type": "core.text", "preset": "tiny"},
            "head": {"type": "core.masked_lm"},
        }
    )
    assert key_fields(run, [{"text": "a", "document": "1"}, {"text": "b", "document": "2"}]) == ("document",)
    assert "document" not in key_fields(run, [{"text": "a", "document": "1"}, {"text": "b"}])


def test_what_a_resample_draws_is_said_in_words() -> None:
    values = {
        "name": "pages",
        "data": {"adapter": {"type": "core.columns"}, "source": "texts.csv", "split": {"by": "hash", "key": ["page"]}},
        "encoder": {"type": "core.text", "preset": "tiny"},
        "head": {"type": "core.classification", "labels": ["a", "b"]},
    }
    rows = [{"text": str(number), "page": number % 3} for number in range(12)]
    unit, groups = drawn(check(values), rows)
    assert unit == "the 3 groups of examples with equal page"
    assert groups is not None
    assert len(set(groups[::3])) == 1
    assert drawn(check(values), [{"text": "a"}]) == ("examples", None)
