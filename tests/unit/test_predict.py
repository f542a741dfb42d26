"""The predictor: what it refuses, what its answers depend on, and that it answers as the checkpoint did."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import field_validator

import heliostat
from heliostat import checkpoint
from heliostat.errors import CheckpointError, PluginError, PredictError, StoreError
from heliostat.heads.classification import Class
from heliostat.plugin import Record
from heliostat.predict import Predictor
from heliostat.predict.record import check_answers, check_examples
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


class Claim(Record):
    """A record with a check of its own, whose sentence quotes the value."""

    amount: float
    country: Literal["at", "de"] = "at"
    tags: list[str] = []  # noqa: RUF012  (pydantic copies it)

    @field_validator("tags")
    @classmethod
    def _known(cls, tags: list[str]) -> list[str]:
        if tags:
            raise ValueError(f"the tags {tags} are not known")
        return tags


def test_defaults_are_filled_in() -> None:
    assert check_examples([{"amount": 1}], Claim) == [{"amount": 1.0, "country": "at", "tags": []}]


def test_a_check_that_quotes_the_value_is_not_passed_on() -> None:
    with pytest.raises(PredictError) as caught:
        check_examples([{"amount": 1, "tags": ["SECRET"], "country": "SECRET"}], Claim)
    assert [problem.field for problem in caught.value.problems] == ["country", "tags"]
    assert "SECRET" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), min_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES | st.dictionaries(st.sampled_from(["amount", "country", "tags", "\ud800"]), VALUES), max_size=3))
def test_whatever_comes_in_is_taken_or_refused(examples: list[Any]) -> None:
    rows: list[Any] = []
    refused: PredictError | None = None
    try:
        rows = check_examples(examples, Claim)
    except PredictError as error:
        refused = error
    if refused:
        assert {problem.index for problem in refused.problems} <= set(range(len(examples)))
        assert str(refused).encode("utf-8")
    else:
        assert [set(row) for row in rows] == [{"amount", "country", "tags"}] * len(examples)


@pytest.mark.parametrize("amount", [10**400, -(10**5000), "1e999", "nan"], ids=["large", "huge", "1e999", "nan"])
def test_a_number_that_no_float_holds_is_refused(amount: Any) -> None:
    with pytest.raises(PredictError, match="amount"):
        check_examples([{"amount": amount}], Claim)


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


@pytest.mark.parametrize(
    "answers",
    [
        [{"label": "glad", "probabilities": {"glad": float("nan")}}],
        [{"label": "glad"}],
        [{"label": "glad", "probabilities": {}, "extra": 1}],
        [],
    ],
)
def test_an_answer_that_breaks_its_record_is_not_the_callers_fault(answers: list[Any]) -> None:
    with pytest.raises(PluginError, match=r"tiny\.mood"):
        check_answers(answers, 1, Class, "tiny.mood")


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


def names(folder: Path) -> list[str]:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in files if not name.startswith("state/")]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_file_is_one_sentence(tiny_checkpoint: Path, tmp_path: Path, damage: str) -> None:
    for name in names(tiny_checkpoint):
        copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / damage, dirs_exist_ok=True))
        path = copy / name
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "removed":
            path.unlink()
        else:
            flipped = content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]
            path.write_bytes(content[:middle] if damage == "truncated" else flipped)
        with pytest.raises(CheckpointError) as caught:
            Predictor.load(copy)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "null", "{}", '{"format": 1}', '{"format": 1, "files": []}', '{"format": 1, "files": {"a": 1}}'],
)
def test_a_damaged_manifest_is_one_sentence(copy: Path, manifest: str) -> None:
    (copy / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError):
        Predictor.load(copy)


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "place", ["encoder/model.safetensors", "head/model.safetensors", "encoder/tokenizer.json", "run.json"]
)
def test_a_pickle_is_never_executed(copy: Path, tmp_path: Path, place: str) -> None:
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb)  # noqa: S301  (the bomb works)
    assert marker.exists()
    marker.unlink()
    (copy / place).write_bytes(bomb)
    checkpoint.seal(copy, {})  # an attacker can hash, too
    with pytest.raises(CheckpointError):
        Predictor.load(copy)
    assert not marker.exists()


def test_weights_in_a_pickle_format_are_refused(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (copy / "encoder" / "model.safetensors").unlink()
    (copy / "encoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    checkpoint.seal(copy, {})
    with pytest.raises(CheckpointError, match="only safetensors"):
        Predictor.load(copy)
    assert not marker.exists()


def test_load_takes_a_folder(tiny_checkpoint: Path) -> None:
    assert heliostat.load(tiny_checkpoint).run.name == "mood"
    assert heliostat.load(str(tiny_checkpoint)).run.name == "mood"


def test_load_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    with pytest.raises(StoreError, match="no model 'mood'"):
        heliostat.load("mood@champion")
    with pytest.raises(CheckpointError, match="does not exist"):
        heliostat.load("./mood")
