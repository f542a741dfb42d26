"""Checks of a checkpoint behind HTTP: the application that a replica runs, and the demo page over it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from heliostat.component import Row
from heliostat.testing.rehearsal import Fault, Rehearsal

if TYPE_CHECKING:
    from fastapi import FastAPI

    from heliostat.demo.page import Panel


def serves(rehearsal: Rehearsal) -> str:
    """Over HTTP the samples get the answers that the predictor gives, and a record of another form is refused.

    Of a head that `streams`, the pieces are the text of the row that ends them.
    """
    import httpx

    name, questions = rehearsal.run.name, [dict(sample) for sample in rehearsal.parts.head.samples]
    with _deployed(rehearsal) as url:
        answer = httpx.post(f"{url}/v1/models/{name}:predict", json={"instances": questions}, timeout=60)
        refused = httpx.post(f"{url}/v1/models/{name}:predict", json={"instances": [{"no such field": 1}]}, timeout=60)
        schema = httpx.get(f"{url}/openapi.json", timeout=60)
        streamed = _streamed(url, name, questions) if rehearsal.parts.head.streams else ""
    if answer.status_code != 200:
        raise Fault(f"the samples were answered with status {answer.status_code}: {answer.text[:300]}")
    if answer.json()["predictions"] != rehearsal.predictor.predict(questions):
        raise Fault("the served answers differ from those of the same checkpoint in this process.")
    if refused.status_code != 422:
        raise Fault(f"a record of another form was answered with status {refused.status_code}, not 422.")
    if f"/v1/models/{name}:predict" not in schema.json()["paths"]:
        raise Fault("the predict route is missing in /openapi.json.")
    return f"{len(questions)} samples answered{streamed}, a wrong record refused with 422"


def _streamed(url: str, name: str, questions: list[Row]) -> str:
    from heliostat.serve.client import Client, RefusedError

    with Client(url, timeout=60) as client:
        for question in questions:
            pieces, row = [], None
            stream = client.stream(name, question)
            try:
                while row is None:
                    pieces.append(next(stream))
            except StopIteration as end:
                row = end.value.predictions[0]
            except RefusedError as error:
                raise Fault(f"a sample cannot be streamed: {error}") from None
            if "".join(pieces) not in row.values():
                raise Fault("the streamed pieces, joined, are no field of the row that ends them.")
    return " and streamed"


def demo_answers(rehearsal: Rehearsal) -> str:
    """The page generated from the head's records is built, and asked each sample it gives an answer."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from heliostat.demo.form import build_form, values_of
    from heliostat.demo.page import build_page
    from heliostat.serve.client import Client

    name, head = rehearsal.run.name, rehearsal.parts.head
    with _deployed(rehearsal) as url:
        client = Client(url)
        demo = head.demo() if head.demo else None
        page = build_page(client, name, demo)
        ask = next((fn for fn in page.fns.values() if fn.api_name == f"ask-{name}"), None)
        if ask is None or ask.fn is None:
            raise Fault("the page has no button that asks the model.")
        with gr.Blocks():
            fields = build_form(client.model(name)["takes"], demo.choices() if demo else None)
        answers = [_panel(ask.fn, values_of(fields, sample)) for sample in head.samples]
    for answer in answers:
        if not answer.asked:
            raise Fault(f"the page has no answer to a sample: {answer.facts}")
        if name not in answer.facts:
            raise Fault("the page does not say which model answered.")
    return f"{len(answers)} samples asked on its page"


def _panel(answer: Any, values: list[Any]) -> Panel:
    """What the page shows for the values of its form, at last where it shows words as they are written."""
    from heliostat.demo.page import Panel

    shown = answer(None, *values)
    *_, last = [shown] if isinstance(shown, list) else shown
    return Panel(*last)


@contextmanager
def _deployed(rehearsal: Rehearsal) -> Iterator[str]:
    """The model's own application behind a real server."""
    from heliostat.serve.app import build_app
    from heliostat.serve.schema import Served

    with listening(build_app(rehearsal.predictor, Served(rehearsal.run.name, 1))) as url:
        yield url


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The URL of an application behind a real server on a free port of this machine.

    Raises Fault when the server does not end with the block.
    """
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
        if thread.is_alive():
            raise Fault("the server did not end within 30 s.")
