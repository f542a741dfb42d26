"""The predictor: what it refuses, what its answers depend on, and that it answers as the checkpoint did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import heliostat
from heliostat import checkpoint
from heliostat.errors import CheckpointError, PredictError, StoreError
from heliostat.predict import Predictor
from heliostat.predict.replay import first_mismatch

TEXTS = ["rain", "a lovely day and a warm sun over the old town " * 3, "we laughed", "the train leaves at nine", "x"]
ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Predictor:
    return Predictor.load(tiny_checkpoint, threads=1)


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "damaged"))


def probabilities(rows: list[dict[str, Any]]) -> list[float]:
    return [value for row in rows for value in row["probabilities"].values()]


def test_answers_keep_the_order_of_the_examples(predictor: Predictor) -> None:
    forward, backward = predictor.predict(ROWS), predictor.predict(ROWS[::-1])
    assert [row["label"] for row in forward] == [row["label"] for row in backward[::-1]]
    assert probabilities(forward) == pytest.approx(probabilities(backward[::-1]), abs=1e-5)
    assert len({row["probabilities"]["glad"] for row in forward}) == len(ROWS)


@pytest.mark.parametrize("max_tokens", [1, 20, 8192])
def test_answers_do_not_depend_on_what_else_is_in_the_batch(predictor: Predictor, max_tokens: int) -> None:
    alone = [predictor.predict([row])[0] for row in ROWS]
    together = predictor.predict(ROWS * 3, max_tokens=max_tokens)
    assert probabilities(together) == pytest.approx(probabilities(alone * 3), abs=1e-5)


def test_bf16_gives_about_the_same(tiny_checkpoint: Path, predictor: Predictor) -> None:
    fast = Predictor.load(tiny_checkpoint, threads=1, precision="bf16")
    assert probabilities(fast.predict(ROWS)) == pytest.approx(probabilities(predictor.predict(ROWS)), abs=0.05)
    assert fast.check_golden().num_requests == 3


def test_nothing_in_nothing_out(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("example", "field", "rule"),
    [
        ({}, "text", "is required"),
        ({"text": 5}, "text", "should be a valid string"),
        ({"text": None}, "text", "should be a valid string"),
        ({"text": ["SECRET"]}, "text", "should be a valid string"),
        ({"text": ""}, "text", "at least 1 character"),
        ({"text": "SECRET" * 20_000}, "text", "at most 20000 characters"),
        ({"text": "SECRET \ud800"}, "text", "lone surrogate"),
        ({"text": float("nan")}, "text", "finite"),
        ({"text": "SECRET", "txet": "SECRET"}, "txet", "Did you mean 'text'?"),
        ({"text": "SECRET", "SECRET and more": 1}, "?", "no such field"),
        ({"text": "SECRET", 3: 1}, "", "name is text"),
        ("SECRET", "", "mapping of fields"),
        (None, "", "mapping of fields"),
    ],
)
def test_a_bad_example_is_named_by_place_field_and_rule(
    predictor: Predictor, example: Any, field: str, rule: str
) -> None:
    with pytest.raises(PredictError) as caught:
        predictor.predict([ROWS[0], example])
    [problem] = caught.value.problems
    assert (problem.index, problem.field) == (1, field)
    assert rule in problem.rule
    assert "SECRET" not in str(caught.value)


def test_deep_nesting_is_refused(predictor: Predictor) -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(PredictError, match="nested deeper"):
        predictor.predict([{"text": nested}])


@pytest.mark.parametrize("examples", ["a text", {"text": "one"}])
def test_examples_come_as_a_list(predictor: Predictor, examples: Any) -> None:
    with pytest.raises(PredictError, match="list of mappings"):
        predictor.predict(examples)


def test_all_bad_examples_are_found_and_few_are_spelled_out(predictor: Predictor) -> None:
    with pytest.raises(PredictError) as caught:
        predictor.predict([{}] * 1000)
    assert [problem.index for problem in caught.value.problems] == list(range(1000))
    assert len(str(caught.value).splitlines()) == 6


def test_what_the_encoder_refuses_names_the_example(copy: Path) -> None:
    run = json.loads((copy / "run.json").read_text())
    run["encoder"]["fields"] = ["text", "title"]
    (copy / "run.json").write_text(json.dumps(run))
    checkpoint.seal(copy, {})
    with pytest.raises(PredictError, match=r"example 0: cannot be encoded: .*'title'"):
        Predictor.load(copy).predict(ROWS)


def test_golden_requests_are_answered_as_before(predictor: Predictor) -> None:
    replay = predictor.check_golden(tolerance=1e-5)
    assert replay.num_requests == 3
    assert next(example["text"] for example, _ in predictor.golden()) == "what a lovely morning"


def test_another_golden_answer_is_a_mismatch(copy: Path) -> None:
    lines = [json.loads(line) for line in (copy / "golden.jsonl").read_text().splitlines()]
    lines[1]["prediction"]["probabilities"]["sad"] += 0.01
    (copy / "golden.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    checkpoint.seal(copy, {})
    with pytest.raises(CheckpointError, match=r"golden request 1 .*probabilities\.sad"):
        Predictor.load(copy).check_golden()
    assert Predictor.load(copy).check_golden(tolerance=0.1).max_difference == pytest.approx(0.01, abs=1e-4)


def test_another_golden_label_is_a_mismatch(copy: Path) -> None:
    golden = (copy / "golden.jsonl").read_text()
    (copy / "golden.jsonl").write_text(golden.replace('"label": "glad"', '"label": "sad"', 1))
    checkpoint.seal(copy, {})
    with pytest.raises(CheckpointError, match="label"):
        Predictor.load(copy).check_golden(tolerance=0.05)


@pytest.mark.parametrize(
    ("expected", "found", "is_equal"),
    [
        (("a", 0.505, 0.495), ("b", 0.498, 0.502), True),
        (("a", 0.6, 0.4), ("b", 0.6, 0.4), False),
        (("a", 0.505, 0.495), ("b", 0.3, 0.7), False),
    ],
)
def test_labels_that_were_as_probable_may_change_places(expected: Any, found: Any, is_equal: bool) -> None:
    one, other = ({"label": each[0], "probabilities": {"a": each[1], "b": each[2]}} for each in (expected, found))
    _, _, mismatch = first_mismatch([({}, one)], [other], 0.02)
    assert (mismatch is None) == is_equal


def test_load_takes_a_folder(tiny_checkpoint: Path) -> None:
    assert heliostat.load(tiny_checkpoint).run.name == "mood"
    assert heliostat.load(str(tiny_checkpoint)).run.name == "mood"


def test_load_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    with pytest.raises(StoreError, match="no model 'mood'"):
        heliostat.load("mood@champion")
    with pytest.raises(CheckpointError, match="does not exist"):
        heliostat.load("./mood")
