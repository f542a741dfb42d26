"""A model described from the records its head declares: as JSON for programs, as OpenAPI, and as a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse

from heliostat.plugin import TaskHead
from heliostat.registry import address_of
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Exchange, Served

REFERENCE = "#/components/schemas/{model}"


STREAMED = (
    "Server-sent events. `piece` holds the `text` that one step of the search added; `answer`, the last one, holds the "
    "`prediction` with `model` and `latency_ms`; `error` comes in its place when something goes wrong on the way. "
    "The search is greedy: it takes the most probable token at each step, so that no piece is taken back, and its "
    "answer is the one of `:predict` with one beam."
)
"""What `:stream` answers."""


def describe(head: TaskHead, served: Served, limits: Limits, *, is_ready: bool) -> dict[str, Any]:
    """Name, version, readiness, record schemas, samples, notice and limits: what a demo needs to draw its form."""
    return {
        "name": served.name,
        "version": served.version,
        "ready": is_ready,
        "takes": head.takes.model_json_schema(),
        "gives": head.gives.model_json_schema(mode="serialization"),
        "samples": [dict(sample) for sample in head.samples],
        "notice": head.notice,
        "head": address_of(type(head)),
        "targets": list(head.target_fields),
        "limits": limits.model_dump(),
        "streams": head.streams,
    }


def openapi(
    app: FastAPI,
    head: TaskHead,
    types: Exchange,
    path: str,
    needs_token: bool,
    bodies: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The OpenAPI description of a model's application at `path`, its requests typed by the head's record.

    `bodies` are the schemas of what other routes (by their paths) are sent.
    """
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema([(types.request, "validation")], ref_template=REFERENCE)
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions["$defs"])
    content: dict[str, Any] = {"schema": {"$ref": REFERENCE.format(model=types.request.__name__)}}
    if head.samples:
        content["example"] = {"instances": [dict(sample) for sample in head.samples[:2]]}
    paths = schema["paths"]
    paths[f"{path}:predict"]["post"]["requestBody"] = {"required": True, "content": {"application/json": content}}
    if f"{path}:stream" in paths:
        one = {"example": {"instances": [dict(sample) for sample in head.samples[:1]]}} if head.samples else {}
        of_one = {**content["schema"], "properties": {"instances": {"maxItems": 1}}}
        body = {"required": True, "content": {"application/json": {"schema": of_one, **one}}}
        paths[f"{path}:stream"]["post"]["requestBody"] = body
    for other, body_schema in (bodies or {}).items():
        sent = {"required": True, "content": {"application/json": {"schema": body_schema}}}
        paths[other]["post"]["requestBody"] = sent
    if needs_token:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"bearer": []}]
    return schema


def docs_response(models: Sequence[dict[str, Any]]) -> HTMLResponse:
    """How to ask the models here: one page that loads nothing from elsewhere, and may not."""
    return HTMLResponse(
        _page(models), headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    )


def _page(models: Sequence[dict[str, Any]]) -> str:
    return _PAGE.format(
        title=escape(", ".join(model["name"] for model in models)), models="".join(map(_section, models))
    )


def _section(model: dict[str, Any]) -> str:
    body = json.dumps({"instances": model["samples"][:1] or [{}]}, ensure_ascii=False)
    path = f"/v1/models/{model['name']}"
    curl = f"curl -X POST http://HOST:PORT{path}:predict -H 'Content-Type: application/json' -d '{body}'"
    stream = curl.replace("curl -X", "curl -N -X").replace(":predict", ":stream")
    asked = [curl, stream] if model.get("streams") else [curl]
    limits = model["limits"]
    bounds = f"{limits['max_instances']} records a request, {limits['max_body_bytes']} bytes, {limits['timeout_s']} s"
    return (
        f"<h2>{escape(model['name'])} <small>version {model['version']}</small></h2><p>{escape(model['notice'])}</p>"
        f"{''.join(f'<pre>{escape(each)}</pre>' for each in asked)}<h3>A record in</h3>{_fields(model['takes'])}"
        f"<h3>A prediction out</h3>{_fields(model['gives'])}<p>At most {escape(bounds)}.</p>"
        f"<p>Its description: <a href='{escape(path)}'>{escape(path)}</a>. {_other_protocols(model)}</p>"
    )


def _other_protocols(model: dict[str, Any]) -> str:
    tensors = f"<code>/v2/models/{escape(model['name'])}/infer</code> takes it in the Open Inference Protocol's form"
    return f"{tensors}, <code>/v1/embeddings</code> in OpenAI's." if model.get("embeds") else f"{tensors}."


def _fields(schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(str(field.get('type', '')))}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto; }}
td {{ padding: .2rem 1rem .2rem 0; }}
small {{ color: #666; font-weight: normal; }}
</style></head><body>{models}
<p><a href="/openapi.json">openapi.json</a>, <a href="/readyz">readyz</a>, <a href="/metrics">metrics</a></p>
</body></html>
"""
