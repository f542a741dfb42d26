"""The page itself: a form, the answer as bars, who answered and how fast, and a way to say that it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from heliostat.component import Row
from heliostat.demo.corrections import keep_correction
from heliostat.demo.form import MANY, FormField, build_form, called, record_from, values_of
from heliostat.demo.marks import draw_marks, marks_of
from heliostat.errors import ServeError
from heliostat.plugin import Demo
from heliostat.serve.client import Client, RefusedError

NOBODY_ASKED = "*The answer will stand here.*"


class Panel(NamedTuple):
    """The components that an answer fills, in the order in which it gives their values."""

    facts: Any
    picture: Any
    bars: Any
    more: Any
    details: Any
    asked: Any
    """What was asked and answered, for a correction."""
    right: Any
    keep: Any
    kept: Any
    marks: Any


def build_page(client: Client, name: str, demo: Demo | None = None) -> gr.Blocks:
    """The page of the model `name` behind `client`. Raises ServeError when the deployment does not answer."""
    with gr.Blocks(title=f"{name} | Heliostat", analytics_enabled=False) as page:
        draw_model(client, name, demo)
    return page


def draw_model(client: Client, name: str, demo: Demo | None = None) -> None:
    """Draw one model into the current Blocks; the gallery draws several."""
    about, demo = client.model(name), demo or Demo()
    gr.Markdown(f"# {demo.title or name.replace('-', ' ').capitalize()}\n{demo.description}")
    if about.get("notice"):
        gr.Markdown(f"**{about['notice']}**", elem_id="notice")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3):
            above = gr.Column(visible=False)
            fields = build_form(about["takes"], demo.choices())
            ask = gr.Button("Ask", variant="primary", elem_id="ask")
            below = gr.Column()
        with gr.Column(scale=2):
            panel = _draw_panel(name, about.get("targets", ()))
        inputs = [field.control for field in fields]
        answer = _answerer(client, name, demo, fields, about.get("targets", ()))
        above.visible = len(fields) > MANY  # below a long form nobody would look for samples
        with above if above.visible else below:
            _draw_samples(about["samples"], fields, panel, answer, demo)
        with below:
            panel.marks.render()
    ask.click(answer, inputs, list(panel), api_name=f"ask-{name}")


def _draw_samples(samples: Sequence[Row], fields: list[FormField], panel: Panel, answer: Any, demo: Demo) -> None:
    """Samples that fill the form, and are asked at once, when they are clicked on."""
    if samples:
        gr.Examples(
            [values_of(fields, sample) for sample in samples],
            [field.control for field in fields],
            list(panel),
            answer,
            run_on_click=True,
            cache_examples=False,
            example_labels=[demo.called(sample) or called(sample) for sample in samples],
            label="Try one of these",
            elem_id="samples",
        )


def _draw_panel(name: str, targets: Sequence[str]) -> Panel:
    facts = gr.Markdown(NOBODY_ASKED, elem_id="facts")
    picture = gr.HTML("", elem_id="picture", visible=False)
    bars = gr.Label(label="Answer", elem_id="answer", num_top_classes=8, visible=False)
    asked = gr.State(None)
    right, keep, kept = _draw_correction(name, targets, asked)
    with gr.Accordion("The rest of the answer, as JSON", open=False, visible=False) as more:
        details = gr.JSON(show_label=False)
    return Panel(facts, picture, bars, more, details, asked, right, keep, kept, draw_marks())


def _answerer(client: Client, name: str, demo: Demo, fields: list[FormField], targets: Sequence[str]) -> Any:
    def answer(*values: Any) -> list[Any]:
        try:
            record = record_from(fields, values)
            reply = client.ask(name, [record])
            marks = marks_of(client, name, demo, record, reply.predictions[0])
        except (ServeError, ValueError) as error:
            return _nothing(_sentence(error))
        prediction = reply.predictions[0]
        bars, others, drawn = dict(demo.bars(prediction)), dict(demo.details(prediction)), demo.picture(prediction)
        shown = bars or ("" if drawn else str(next(iter(prediction.values()), "")))
        right, keep, kept = _choices(prediction, targets)
        answered = Panel(
            f"answered by **{name}** version **{reply.version}** in **{reply.latency_ms:.0f} ms**",
            gr.HTML(value=drawn, visible=bool(drawn)),
            gr.Label(value=shown or None, visible=bool(shown), show_heading=not drawn),
            gr.Accordion(visible=bool(others)),
            others,
            {"record": record, "prediction": prediction, "version": reply.version},
            right,
            keep,
            kept,
            marks,
        )
        return list(answered)

    return answer


def _nothing(why: str) -> list[Any]:
    """What the page shows where there is no answer; the sentence pops up, too."""
    gr.Warning(why, title="No answer")
    right, keep, kept = _choices({}, ())
    picture, bars, more = gr.HTML(visible=False), gr.Label(visible=False), gr.Accordion(visible=False)
    return list(Panel(why, picture, bars, more, None, None, right, keep, kept, gr.HighlightedText(visible=False)))


def _sentence(error: Exception) -> str:
    """Why there is no answer, for somebody who sees a form and no request."""
    if not isinstance(error, RefusedError) or not error.field:
        return str(error)
    field = error.field.removeprefix("instances[0]").lstrip(".").replace("_", " ")
    return f"{field.capitalize() or 'The form'}: {error.reason}"


def _choices(prediction: Row, targets: Sequence[str]) -> tuple[Any, Any, str]:
    """The controls of the correction, now that the classes are known from an answer."""
    classes = sorted(prediction.get("probabilities", {}))
    if targets and classes and "label" in prediction:  # one class: what a correction can name
        named = [(name.replace("_", " "), name) for name in classes]
        return gr.Radio(choices=named, value=None, visible=True), gr.Button(visible=True), ""
    return gr.Radio(visible=False), gr.Button(visible=False), ""


def _draw_correction(name: str, targets: Sequence[str], state: gr.State) -> tuple[Any, Any, Any]:
    right = gr.Radio(label="This is wrong. It should be:", choices=[], visible=False, elem_id="right-label")
    keep = gr.Button("Keep my correction", visible=False, elem_id="keep-correction")
    said = gr.Markdown("", elem_id="kept")

    def correct(choice: str | None, asked: Row | None) -> str:
        if not choice or not asked:
            return "Choose the right answer first."
        prediction, version = asked["prediction"], int(asked["version"])
        path = keep_correction(name, version, asked["record"], {targets[0]: choice}, prediction)
        return f"Thank you. Kept as a labelled example: `{path}`"

    keep.click(correct, [right, state], [said], api_name=False)
    return right, keep, said
