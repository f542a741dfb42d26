"""Requests that every deployed model must refuse: a status below 500, one shape of error, no word of the input.

The table is data, so that the application alone, a real deployment and a stranger's plugin are held to the same one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MARKER = "Zq7-private-words"
"""Stands in the texts of the bad requests; it must stand in no answer."""

CHUNK = 1 << 16

JSON = {"Content-Type": "application/json"}


class BadRequest(NamedTuple):
    """One request and the answer it must get."""

    name: str
    status: int
    code: str
    body: bytes = b""
    num_chunks: int = 0
    """When above 0, the body is this many chunks of CHUNK bytes, sent without a Content-Length."""
    method: str = "POST"
    path: str = ""
    """Empty stands for the predict route."""
    headers: Mapping[str, str] = JSON

    def chunks(self) -> Iterator[bytes]:
        """The streamed body, made as it is read: at no time does it lie in memory whole."""
        yield b'{"instances": [{"text": "' + MARKER.encode()
        for _ in range(self.num_chunks):
            yield b"a" * CHUNK


def bad_requests(model: str, field: str = "text", max_length: int = 20_000) -> list[BadRequest]:
    """The table, for a model whose record has one text field of `max_length` characters at most."""
    return [*_syntax(field), *_shapes(field, max_length), *_sizes(field), *_routes(model, _json(_one(field, MARKER)))]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _one(field: str, value: Any) -> dict[str, Any]:
    return {"instances": [{field: value}]}


def _syntax(field: str) -> list[BadRequest]:
    def raw(value: str) -> bytes:
        return f'{{"instances": [{{"{field}": {value}}}]}}'.encode()

    return [
        BadRequest("empty body", 400, "empty_body"),
        BadRequest("broken JSON", 400, "invalid_json", b'{"instances": [{"text": "' + MARKER.encode()),
        BadRequest("words after JSON", 400, "invalid_json", _json(_one(field, "fine")) + MARKER.encode()),
        BadRequest("single quotes", 400, "invalid_json", b"{'instances': []}"),
        BadRequest("byte order mark", 400, "invalid_json", b"\xef\xbb\xbf" + _json(_one(field, "fine"))),
        BadRequest("NaN", 400, "invalid_json", raw("NaN")),
        BadRequest("Infinity", 400, "invalid_json", raw("-Infinity")),
        BadRequest("number of 5,000 digits", 400, "invalid_json", raw("1" * 5000)),
        BadRequest("number beyond all doubles", 422, "wrong_type", raw("1e999")),
        BadRequest("invalid UTF-8", 400, "invalid_utf8", b'{"instances": [{"text": "\xff\xfe"}]}'),
        BadRequest("UTF-16", 400, "invalid_utf8", _json(_one(field, "fine")).decode().encode("utf-16")),
        BadRequest("nested 100,000 deep", 400, "nested_too_deeply", b"[" * 100_000),
        BadRequest("duplicate key", 400, "duplicate_key", raw(f'"{MARKER}", "{field}": "b"')),
        BadRequest("duplicate instances", 400, "duplicate_key", b'{"instances": [], "instances": []}'),
    ]


def _shapes(field: str, max_length: int) -> list[BadRequest]:
    return [
        BadRequest("a list", 422, "wrong_type", _json([MARKER])),
        BadRequest("a string", 422, "wrong_type", _json(MARKER)),
        BadRequest("null", 422, "wrong_type", b"null"),
        BadRequest("no instances", 422, "missing_field", _json({})),
        BadRequest("unknown key", 422, "unknown_field", _json({**_one(field, "fine"), MARKER: 1})),
        BadRequest("instances is text", 422, "wrong_type", _json({"instances": MARKER})),
        BadRequest("instances is an object", 422, "wrong_type", _json({"instances": {field: MARKER}})),
        BadRequest("no record", 422, "empty_instances", _json({"instances": []})),
        BadRequest("record is text", 422, "wrong_type", _json({"instances": [MARKER]})),
        BadRequest("record is null", 422, "wrong_type", _json({"instances": [None]})),
        BadRequest("record without fields", 422, "missing_field", _json({"instances": [{}]})),
        BadRequest("unknown field", 422, "unknown_field", _json({"instances": [{field: "fine", MARKER: MARKER}]})),
        BadRequest("field is a number", 422, "wrong_type", _json(_one(field, 7))),
        BadRequest("field is null", 422, "wrong_type", _json(_one(field, None))),
        BadRequest("field is a list", 422, "wrong_type", _json(_one(field, [MARKER]))),
        BadRequest("nested 500 deep", 422, "wrong_type", b'{"instances": [' + b"[" * 500 + b"]" * 500 + b"]}"),
        BadRequest("lone surrogate", 422, "invalid_text", b'{"instances": [{"%s": "\\ud800"}]}' % field.encode()),
        BadRequest("lone surrogate as a key", 422, "invalid_text", b'{"instances": [{"\\udfff": "fine"}]}'),
        BadRequest("empty text", 422, "empty_text", _json(_one(field, ""))),
        BadRequest("white space", 422, "empty_text", _json(_one(field, " \t\n\u00a0\u2003"))),
        BadRequest("one bad among good", 422, "empty_text", _json({"instances": [{field: "fine"}, {field: " "}]})),
        BadRequest("text a sign too long", 413, "text_too_long", _json(_one(field, "a" * (max_length + 1)))),
    ]


def _sizes(field: str) -> list[BadRequest]:
    declared = {**JSON, "Content-Length": str(200 << 20)}
    return [
        BadRequest("1 MB text", 413, "text_too_long", _json(_one(field, MARKER + "a" * 1_000_000))),
        BadRequest("2 MB body", 413, "body_too_large", _json(_one(field, MARKER + "a" * (2 << 20)))),
        BadRequest("200 MB body, streamed", 413, "body_too_large", num_chunks=(200 << 20) // CHUNK),
        BadRequest("200 MB body, declared", 413, "body_too_large", num_chunks=(200 << 20) // CHUNK, headers=declared),
        BadRequest("10,000 texts", 413, "too_many_instances", _json({"instances": [{field: "fine"}] * 10_000})),
        BadRequest("257 texts", 413, "too_many_instances", _json({"instances": [{field: "fine"}] * 257})),
    ]


def _routes(model: str, good: bytes) -> list[BadRequest]:
    route = f"/v1/models/{model}"
    text, form = {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}
    return [
        BadRequest("unknown model", 404, "unknown_model", good, path=f"/v1/models/{MARKER}:predict"),
        BadRequest("unknown model's page", 404, "unknown_model", method="GET", path=f"/v1/models/{MARKER}", headers={}),
        BadRequest("unknown verb of a model", 404, "unknown_model", good, path=f"{route}:{MARKER}"),
        BadRequest("unknown route", 404, "unknown_route", method="GET", path=f"/{MARKER}", headers={}),
        BadRequest(
            "path out of the tree", 404, "unknown_route", method="GET", path="/..%2f..%2fetc/passwd", headers={}
        ),
        BadRequest("GET on predict", 405, "method_not_allowed", method="GET", headers={}),
        BadRequest("DELETE a model", 405, "method_not_allowed", method="DELETE", path=route, headers={}),
        BadRequest(
            "OPTIONS from another site", 405, "method_not_allowed", method="OPTIONS", headers={"Origin": "http://a.b"}
        ),
        BadRequest("no content type", 415, "not_json", good, headers={}),
        BadRequest("text/plain", 415, "not_json", good, headers=text),
        BadRequest("a form", 415, "not_json", b"instances=" + MARKER.encode(), headers=form),
        BadRequest("gzip", 415, "compressed", b"\x1f\x8b\x08", headers={**JSON, "Content-Encoding": "gzip"}),
        BadRequest("another host's name", 400, "unknown_host", good, headers={**JSON, "Host": "evil.example"}),
    ]
