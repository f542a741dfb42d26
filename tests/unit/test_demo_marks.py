"""Marks on a text in the demo: which words moved the answer, asked of a real model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from heliostat.component import Row
from heliostat.demo.form import MANY, build_form, called, record_from, values_of
from heliostat.demo.marks import MOST_PARTS, moved, split_up
from heliostat.plugin import Demo
from heliostat.predict import Predictor
from heliostat.serve.client import Answer, RefusedError


class Direct:
    """Asks a checkpoint in this process, as the client asks one over HTTP."""

    def __init__(self, checkpoint: Path) -> None:
        self.predictor = Predictor.load(checkpoint)

    def predict(self, name: str, instances: Sequence[Row]) -> list[Row]:
        return self.predictor.predict(instances)


class Moved(Demo):
    moved_by: ClassVar[str] = "text"


def test_a_word_counts_by_what_the_answer_loses_without_it(tiny_checkpoint: Path) -> None:
    client: Any = Direct(tiny_checkpoint)
    record = {"text": "rain again and  nobody called"}
    answer = client.predict("mood", [record])[0]
    marks = moved(client, "mood", Moved(), record, answer)
    assert [part for part, _ in marks] == ["rain ", "again ", "and  ", "nobody ", "called"]
    without = client.predict("mood", [{"text": "again and  nobody called"}])[0]
    label = answer["label"]
    change = answer["probabilities"][label] - without["probabilities"][label]
    largest = max(abs(float(share or 0)) for _, share in marks)
    assert largest <= 1.0
    assert (float(marks[0][1] or 0) > 0) == (change > 0)


@pytest.mark.parametrize("record", [{"text": "rain"}, {"text": ""}, {}])
def test_nothing_is_marked_where_nothing_can_be_left_out(tiny_checkpoint: Path, record: Mapping[str, Any]) -> None:
    client: Any = Direct(tiny_checkpoint)
    assert moved(client, "mood", Moved(), dict(record), {"label": "sad", "probabilities": {"sad": 1.0}}) == []


@pytest.mark.parametrize("words", [1, 5, MOST_PARTS, MOST_PARTS + 1, 1000])
def test_a_long_text_is_split_into_a_bounded_number_of_parts(words: int) -> None:
    text = " ".join(f"w{number}" for number in range(words))
    parts = split_up(text)
    assert "".join(parts) == text
    assert len(parts) <= MOST_PARTS
    assert len(parts) == min(words, len(parts))


def test_no_more_is_asked_than_a_request_may_hold(tiny_checkpoint: Path) -> None:
    client: Any = Direct(tiny_checkpoint)
    record = {"text": "rain again and nobody called"}
    answer = client.predict("mood", [record])[0]
    assert [part for part, _ in moved(client, "mood", Moved(), record, answer, 2)] == [
        "rain again and ",
        "nobody called",
    ]


class Busy(Direct):
    """Answers one question, and no more."""

    def ask(self, name: str, instances: Sequence[Row]) -> Answer:
        return Answer(super().predict(name, instances), name, 3, 1.0)

    def predict(self, name: str, instances: Sequence[Row]) -> list[Row]:
        raise RefusedError("This key may send 1 request a minute.", status=429, code="too_many_requests")


def test_an_answer_stands_where_its_marks_are_refused(tiny_checkpoint: Path) -> None:
    from heliostat.demo.page import Model, Panel, _answered

    client: Any = Busy(tiny_checkpoint)
    model = Model("mood", {}, Moved(), lambda _: client)
    shown = Panel(*_answered(model, client, {"text": "rain again"}))
    assert "answered by **mood** version **3**" in shown.facts
    assert shown.bars.visible
    assert not shown.marks.visible


def test_a_json_field_that_was_cleared_is_left_out() -> None:
    import gradio as gr

    with gr.Blocks():
        fields = build_form({"properties": {"text": {"type": "string"}, "facts": {"type": "object"}}})
    assert record_from(fields, ["", ""]) == {"text": ""}
    assert record_from(fields, ["a", '{"b": 1}']) == {"text": "a", "facts": {"b": 1}}


def test_a_list_of_texts_is_written_one_a_line() -> None:
    import gradio as gr

    schema = {"properties": {"texts": {"type": "array", "items": {"type": "string"}}}, "required": ["texts"]}
    with gr.Blocks():
        fields = build_form(schema)
    assert values_of(fields, {"texts": ["one two", "three"]}) == ["one two\nthree"]
    assert record_from(fields, [" one two \n\nthree\n"]) == {"texts": ["one two", "three"]}
    assert record_from(fields, [""]) == {"texts": []}


def test_a_field_that_has_one_value_only_is_not_asked_for() -> None:
    import gradio as gr

    language = {"anyOf": [{"const": "en", "type": "string"}, {"type": "null"}], "default": None}
    schema = {
        "properties": {"text": {"type": "string"}, "source": language, "kind": {"const": 1}},
        "required": ["text", "kind"],
    }
    with gr.Blocks():
        fields = build_form(schema)
    assert [field.name for field in fields] == ["text", "kind"]
    assert record_from(fields, ["x", "1"])["text"] == "x"


@pytest.mark.parametrize(("count", "label"), [(3, "City name (optional)"), (MANY + 1, "City name")])
def test_a_long_form_names_what_is_needed_and_a_short_one_what_is_not(count: int, label: str) -> None:
    import gradio as gr

    names = ["amount", *(f"rest_{number}" for number in range(count - 2)), "city_name"]
    needed = names[:-1] if count <= MANY else names[:1]
    with gr.Blocks() as page:
        fields = build_form({"properties": {name: {"type": "string"} for name in names}, "required": needed})
    assert fields[-1].control.label == label
    assert (fields[0].control.label == "Amount (needed)") == (count > MANY)
    assert any(isinstance(block, gr.Row) for block in page.blocks.values()) == (count > MANY)


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        ({"text": "So so."}, "So so."),
        ({"amount": 5, "city": None, "tags": ["a", "b"]}, "5 | a, b"),
        ({"history": []}, "(nothing)"),
        ({"text": "word " * 90}, "word " * 22 + "word ..."),
    ],
)
def test_a_sample_is_called_by_its_values(sample: dict[str, Any], name: str) -> None:
    assert called(sample) == name


def test_a_refusal_is_a_sentence_about_the_form_and_names_no_address() -> None:
    from heliostat.demo.page import _sentence
    from heliostat.serve.client import RefusedError

    told = {"status": 422, "code": "invalid_value", "reason": "Should be a day."}
    assert (
        _sentence(RefusedError("http://x answered 422", field="instances[0].low_doc", **told))
        == "Low doc: Should be a day."
    )
    assert (
        _sentence(RefusedError("http://x answered 422", field="instances[0]", **told)) == "The form: Should be a day."
    )
    assert _sentence(RefusedError("http://x does not answer.")) == "http://x does not answer."
