"""The page itself: a form, the answer as bars, who answered and how fast, and a way to say that it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from heliostat.component import Row
from heliostat.demo.corrections import keep_correction
from heliostat.demo.form import MANY, FormField, build_form, called, record_from, values_of
from heliostat.demo.look import named
from heliostat.demo.marks import MOST_PARTS, draw_marks, marks_of
from heliostat.errors import PluginError, ServeError
from heliostat.plugin import Demo, TaskHead
from heliostat.registry import find
from heliostat.serve.client import Client, RefusedError

NOBODY_ASKED = "*The answer will stand here.*"

ClientOf = Callable[[gr.Request | None], Client]
"""The client that asks for whoever sent a request."""


class Model(NamedTuple):
    """A served model, as its page needs it."""

    name: str
    about: Mapping[str, Any]
    """As `Client.model`."""
    demo: Demo
    client_of: ClientOf
    prefix: str = ""
    """Before each id, where several models stand on one page, which others can open too."""

    @property
    def targets(self) -> Sequence[str]:
        """The fields of a labelled example that the model predicts."""
        return list(self.about.get("targets", ()))

    @property
    def most_at_once(self) -> int:
        """The records that a request may hold."""
        return int(self.about.get("limits", {}).get("max_instances", MOST_PARTS))


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
    about = client.model(name)
    with gr.Blocks(title=f"{name} | Heliostat", analytics_enabled=False) as page:
        draw_model(Model(name, about, demo or demo_of(about), lambda _: client))
    return page


def demo_of(about: Mapping[str, Any]) -> Demo:
    """What the plugin of a served model says about its page, where that plugin is installed here."""
    address = about.get("head")
    try:
        demo = find(address, TaskHead).demo if address else None  # type: ignore[type-abstract]
    except PluginError:
        demo = None
    return demo() if demo else Demo()


def draw_model(model: Model) -> None:
    """Draw one model into the current Blocks; the gallery draws several."""
    about, demo, prefix = model.about, model.demo, model.prefix
    gr.Markdown(f"# {demo.title or model.name.replace('-', ' ').capitalize()}\n{demo.description}")
    if about.get("notice"):
        gr.Markdown(f"**{about['notice']}**", **named("notice", prefix))
    with gr.Row(equal_height=False):
        with gr.Column(scale=3):
            above = gr.Column(visible=False)
            fields = build_form(about["takes"], demo.choices(), prefix)
            ask = gr.Button("Ask", variant="primary", **named("ask", prefix))
            below = gr.Column()
        with gr.Column(scale=2):
            panel = _draw_panel(model)
        inputs, answer = [field.control for field in fields], _answerer(model, fields)
        above.visible = len(fields) > MANY  # below a long form nobody would look for samples
        with above if above.visible else below:
            _draw_samples(model, fields, panel, answer)
        with below:
            panel.marks.render()
    ask.click(answer, inputs, list(panel), api_name=f"ask-{model.name}")


def _draw_samples(model: Model, fields: list[FormField], panel: Panel, answer: Any) -> None:
    """Samples that fill the form, and are asked at once, when they are clicked on."""
    if samples := model.about["samples"]:
        gr.Examples(
            [values_of(fields, sample) for sample in samples],
            [field.control for field in fields],
            list(panel),
            answer,
            run_on_click=True,
            cache_examples=False,
            example_labels=[model.demo.called(sample) or called(sample) for sample in samples],
            label="Try one of these",
            elem_id=f"{model.prefix}samples",
        )


def _draw_panel(model: Model) -> Panel:
    prefix = model.prefix
    facts = gr.Markdown(NOBODY_ASKED, **named("facts", prefix))
    picture = gr.HTML("", visible=False, **named("picture", prefix))
    bars = gr.Label(label="Answer", num_top_classes=8, visible=False, **named("answer", prefix))
    asked = gr.State(None)
    right, keep, kept = _draw_correction(model, asked)
    with gr.Accordion("The rest of the answer, as JSON", open=False, visible=False) as more:
        details = gr.JSON(show_label=False)
    return Panel(facts, picture, bars, more, details, asked, right, keep, kept, draw_marks(prefix))


def _answerer(model: Model, fields: list[FormField]) -> Any:
    """What fills the panel from the values of the form; of a model that writes texts, word by word first."""

    def answer(request: gr.Request, *values: Any) -> list[Any]:
        try:
            return _answered(model, model.client_of(request), record_from(fields, values))
        except (ServeError, ValueError) as error:
            return _nothing(_sentence(error))

    def written(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        words = ""
        with suppress(ServeError, ValueError):  # the whole answer says what is wrong
            for piece in model.client_of(request).stream(model.name, record_from(fields, values)):
                words += piece
                yield _being_written(words)
        yield answer(request, *values)

    return written if model.about.get("streams") else answer


def _answered(model: Model, client: Client, record: Row) -> list[Any]:
    reply, demo = client.ask(model.name, [record]), model.demo
    prediction = reply.predictions[0]
    try:
        marks = marks_of(client, model.name, demo, record, prediction, most=model.most_at_once)
    except ServeError:  # as where the key may ask no more: the answer is here, and stands without them
        marks = gr.HighlightedText(visible=False)
    bars, others, drawn = dict(demo.bars(prediction)), dict(demo.details(prediction)), demo.picture(prediction)
    shown = bars or ("" if drawn else str(next(iter(prediction.values()), "")))
    answered = Panel(
        f"answered by **{model.name}** version **{reply.version}** in **{reply.latency_ms:.0f} ms**",
        gr.HTML(value=drawn, visible=bool(drawn)),
        gr.Label(value=shown or None, visible=bool(shown), show_heading=not drawn),
        gr.Accordion(visible=bool(others)),
        others,
        {"record": record, "prediction": prediction, "version": reply.version},
        *_choices(prediction, model.targets),
        marks,
    )
    return list(answered)


def _being_written(words: str) -> list[Any]:
    """The first words of a text, before the search for the best one has ended."""
    drawn = gr.HTML(value=f'<div class="hs-written">{escape(words)}</div>', visible=True)
    hidden = gr.Label(visible=False), gr.Accordion(visible=False)
    rest = *_choices({}, ()), gr.HighlightedText(visible=False)
    return list(Panel("*being written ...*", drawn, *hidden, None, None, *rest))


def _nothing(why: str) -> list[Any]:
    """What the page shows where there is no answer; the sentence pops up, too."""
    gr.Warning(why, title="No answer")
    picture, bars, more = gr.HTML(visible=False), gr.Label(visible=False), gr.Accordion(visible=False)
    return list(Panel(why, picture, bars, more, None, None, *_choices({}, ()), gr.HighlightedText(visible=False)))


def _sentence(error: Exception) -> str:
    """Why there is no answer, for somebody who sees a form and no request."""
    if not isinstance(error, RefusedError):
        return str(error)
    if not error.field:
        return error.reason
    field = error.field.removeprefix("instances[0]").lstrip(".").replace("_", " ")
    return f"{field.capitalize() or 'The form'}: {error.reason}"


def _choices(prediction: Row, targets: Sequence[str]) -> tuple[Any, Any, str]:
    """The controls of the correction, now that the classes are known from an answer."""
    classes = sorted(prediction.get("probabilities", {}))
    if targets and classes and "label" in prediction:  # one class: what a correction can name
        labels = [(name.replace("_", " "), name) for name in classes]
        return gr.Radio(choices=labels, value=None, visible=True), gr.Button(visible=True), ""
    return gr.Radio(visible=False), gr.Button(visible=False), ""


def _draw_correction(model: Model, state: gr.State) -> tuple[Any, Any, Any]:
    hidden = {"visible": False}
    right = gr.Radio(label="This is wrong. It should be:", choices=[], **hidden, **named("right-label", model.prefix))
    keep = gr.Button("Keep my correction", **hidden, **named("keep-correction", model.prefix))
    said = gr.Markdown("", **named("kept", model.prefix))

    def correct(choice: str | None, asked: Row | None) -> str:
        if not choice or not asked:
            return "Choose the right answer first."
        prediction, version = asked["prediction"], int(asked["version"])
        try:
            path = keep_correction(model.name, version, asked["record"], {model.targets[0]: choice}, prediction)
        except ServeError as error:
            return str(error)
        where = "." if model.prefix else f": `{path}`"  # who comes from elsewhere has no use for a path of this machine
        return f"Thank you. Kept as a labelled example{where}"

    keep.click(correct, [right, state], [said], api_name=False)
    return right, keep, said
