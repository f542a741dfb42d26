"""The page itself: a form, the answer as bars, who answered and how fast, and a way to say that it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from heliostat.component import Row
from heliostat.demo.corrections import keep_correction
from heliostat.demo.form import FormField, build_form, record_from, values_of
from heliostat.demo.marks import draw_marks, marks_of
from heliostat.errors import ServeError
from heliostat.plugin import Demo
from heliostat.serve.client import Client

_FONTS = ["system-ui", "sans-serif"]
"""Fonts of the reader's own machine: the page loads nothing from elsewhere."""

THEME = gr.themes.Soft(font=_FONTS, font_mono=["ui-monospace", "monospace"])


def build_page(client: Client, name: str, demo: Demo | None = None) -> gr.Blocks:
    """The page of the model `name` behind `client`. Raises ServeError when the deployment does not answer."""
    with gr.Blocks(title=f"{name} | Heliostat", analytics_enabled=False) as page:
        draw_model(client, name, demo)
    return page


def draw_model(client: Client, name: str, demo: Demo | None = None) -> None:
    """Draw one model into the current Blocks; the gallery draws several."""
    about, demo = client.model(name), demo or Demo()
    gr.Markdown(f"# {demo.title or name.replace('-', ' ').capitalize()}\n{demo.description}")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3):
            fields = build_form(about["takes"], demo.choices())
            ask = gr.Button("Ask", variant="primary", elem_id="ask")
            samples = [values_of(fields, sample) for sample in about["samples"]]
            if samples:
                gr.Examples(samples, [field.control for field in fields], label="Try one of these")
            marks = draw_marks()
        with gr.Column(scale=2):
            picture = gr.HTML("", elem_id="picture", visible=False)
            bars = gr.Label(label="Answer", elem_id="answer", num_top_classes=8)
            facts = gr.Markdown("", elem_id="facts")
            details = gr.JSON(label="All fields", visible=False)
            if about.get("notice"):
                gr.Markdown(f"**{about['notice']}**", elem_id="notice")
            state = gr.State(None)
            correct = _draw_correction(name, about.get("targets", ()), state)
    inputs = [field.control for field in fields]
    outputs = [bars, facts, details, state, *correct, picture, marks]
    answer = _answerer(client, name, demo, fields, about.get("targets", ()))
    ask.click(answer, inputs, outputs, api_name=f"ask-{name}")


def _answerer(client: Client, name: str, demo: Demo, fields: list[FormField], targets: Sequence[str]) -> Any:
    def answer(*values: Any) -> list[Any]:
        try:
            record = record_from(fields, values)
            reply = client.ask(name, [record])
            marks = marks_of(client, name, demo, record, reply.predictions[0])
        except (ServeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        prediction = reply.predictions[0]
        bars = dict(demo.bars(prediction))
        facts = f"answered by **{name}** version **{reply.version}** in **{reply.latency_ms:.0f} ms**"
        others = dict(demo.details(prediction))
        asked = {"record": record, "prediction": prediction, "version": reply.version}
        shown = gr.Label(value=bars) if bars else gr.Label(value=str(next(iter(prediction.values()), "")))
        choices, drawn = _choices(prediction, targets), demo.picture(prediction)
        picture = gr.HTML(value=drawn, visible=bool(drawn))
        return [shown, facts, gr.JSON(value=others, visible=bool(others)), asked, *choices, picture, marks]

    return answer


def _choices(prediction: Row, targets: Sequence[str]) -> list[Any]:
    """The controls of the correction, now that the classes are known from an answer."""
    classes = sorted(prediction.get("probabilities", {}))
    if targets and classes and "label" in prediction:  # one class: what a correction can name
        return [gr.Radio(choices=classes, value=None, visible=True), gr.Button(visible=True), ""]
    return [gr.Radio(visible=False), gr.Button(visible=False), ""]


def _draw_correction(name: str, targets: Sequence[str], state: gr.State) -> list[Any]:
    right = gr.Radio(label="This is wrong. It should be:", choices=[], visible=False, elem_id="right-label")
    keep = gr.Button("Keep my correction", visible=False, elem_id="keep-correction")
    said = gr.Markdown("", elem_id="kept")

    def correct(choice: str | None, asked: Row | None) -> str:
        if not choice or not asked:
            return "Choose the right answer first."
        prediction, version = asked["prediction"], int(asked["version"])
        path = keep_correction(name, version, asked["record"], {targets[0]: choice}, prediction)
        return f"Thank you. Kept as a labelled example in `{path}`."

    keep.click(correct, [right, state], [said], api_name=False)
    return [right, keep, said]
