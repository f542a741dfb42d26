"""Bad requests made of one good record: for models that take records of any form, on each route that takes some.

`bad_requests` says which answer each mistake must get, for models that read one text. Here a mistake may be none to
some record (a field may be missing, a number may be a text): an answer is right when its status is below 500 and a
refusal repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from heliostat.component import Row
from heliostat.testing.bad_requests import JSON, MARKER

_NO_OBJECTS: tuple[Any, ...] = (None, [MARKER], MARKER, {})
_VALUES: tuple[tuple[str, Any], ...] = (
    ("null", None), ("true", True), ("7", 7), ("-1", -1), ("1e308", 1e308), ("a number of 300 digits", 10**300),
    ("empty text", ""), ("white space", " \t\u00a0"), ("a private text", MARKER), ("a list", [MARKER]),
    ("an object", {MARKER: MARKER}), ("a list of null", [None]), ("nested 40 deep", None),
    ("half a surrogate", "\ud800"),
    ("zero bytes", f"{MARKER}\0\0"), ("1 MB", MARKER + "a" * 900_000), ("20,000 entries", [MARKER] * 20_000),
)  # fmt: skip


class BadBody(NamedTuple):
    """A body that a route may be sent."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str]


def bad_bodies(model: str, sample: Row) -> list[BadBody]:
    """Bodies for `:predict`, `:stream`, `/v2/.../infer` and `/v1/embeddings` of a model that answers `sample`."""
    infer = f"/v2/models/{model}/infer"
    return [
        *(each for verb in ("predict", "stream") for each in _of_records(f"/v1/models/{model}:{verb}", sample)),
        *_of_tensors(infer, sample),
        *_of_bytes(infer, sample),
        *_of_embeddings(model),
        *(each for path in (infer, "/v1/embeddings") for each in _no_json(path)),
    ]


def _body(name: str, path: str, value: Any) -> BadBody:
    return BadBody(name, path, json.dumps(value).encode(), dict(JSON))


def spoilt(sample: Row) -> Iterator[tuple[str, Any]]:
    """What is made of a good record: (what is wrong, the record)."""
    yield from (("no record", value) for value in (None, MARKER, [MARKER], 7))
    yield "unknown field", {**sample, MARKER: MARKER}
    for field in sample:
        yield f"no {field}", {name: value for name, value in sample.items() if name != field}
        for name, value in _VALUES:
            yield f"{field}: {name}", {**sample, field: _deep(40) if name.startswith("nested") else value}


def _deep(levels: int) -> Any:
    value: Any = MARKER
    for _ in range(levels):
        value = [value]
    return value


def _of_records(path: str, sample: Row) -> Iterator[BadBody]:
    yield from (_body(name, path, {"instances": [record]}) for name, record in spoilt(sample))
    yield from (_body("instances", path, value) for value in ({"instances": MARKER}, {MARKER: [sample]}, [sample], 7))


def _of_tensors(path: str, sample: Row) -> Iterator[BadBody]:
    def tensors(field: str, **changed: Any) -> dict[str, Any]:
        sent = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value]} for name, value in sample.items()]
        return {"inputs": [{**tensor, **changed} if tensor["name"] == field else tensor for tensor in sent]}

    first = next(iter(sample))
    for field in sample:
        for name, value in _VALUES:
            for datatype in ("BYTES", "FP64"):
                yield _body(f"{field} as {datatype}: {name}", path, tensors(field, data=[value], datatype=datatype))
    for key, values in {
        "name": (None, MARKER, 7, [MARKER]), "datatype": (None, MARKER, 7, "BF16", "FP32"),
        "shape": (None, [], [0], [2], [-1], [True], [1 << 40, 1], [1 << 30, 0], [1] * 40, MARKER, [MARKER]),
        "data": (None, [], MARKER, _deep(30), [[MARKER], MARKER]), MARKER: (MARKER,),
        "parameters": (MARKER, {"binary_data_size": 8}, {"binary_data_size": -1}, {"binary_data_size": MARKER}),
    }.items():  # fmt: skip
        yield from (_body(f"{key} is {str(value)[:20]}", path, tensors(first, **{key: value})) for value in values)
    good = tensors(first)
    changes: tuple[dict[str, Any], ...] = (
        {"id": 7}, {"id": MARKER * 100}, {"outputs": MARKER}, {"outputs": [{"name": MARKER}]}, {"outputs": [None]},
        {"outputs": [{"name": 7, "parameters": 7}]}, {"parameters": MARKER}, {MARKER: MARKER}, {"inputs": MARKER},
        {"inputs": []}, {"inputs": [MARKER]}, {"inputs": good["inputs"] * 2},
    )  # fmt: skip
    for more in changes:
        yield _body(f"{str(more)[:30]}", path, {**good, **more})
    yield from (_body("no object", path, value) for value in _NO_OBJECTS)


def _of_bytes(path: str, sample: Row) -> Iterator[BadBody]:
    field = next(iter(sample))
    marker = MARKER.encode()
    for name, datatype, sent in (
        ("a length beyond", "BYTES", (1 << 31).to_bytes(4, "little") + marker), ("half a length", "BYTES", b"\1\0"),
        ("no UTF-8", "BYTES", b"\2\0\0\0\xff\xfe"), ("half a number", "FP64", b"\0\0\0"),
        ("not a number", "FP64", b"\0\0\0\0\0\0\xf8\x7f"), ("more than is said", "FP32", b"\0" * 4 + marker),
    ):  # fmt: skip
        size = min(len(sent), 4) if datatype == "FP32" else len(sent)
        tensor = {"name": field, "shape": [1], "datatype": datatype, "parameters": {"binary_data_size": size}}
        text = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        yield BadBody(name, path, text + sent, headers)
    for length in ("-1", MARKER, str(1 << 70), "99999", "3"):
        yield BadBody(
            f"JSON of {length[:6]} bytes", path, b'{"inputs": []}', {**JSON, "Inference-Header-Content-Length": length}
        )


def _of_embeddings(model: str) -> Iterator[BadBody]:
    good = {"model": model, "input": "fine"}
    for name, value in _VALUES:
        yield _body(f"input: {name}", "/v1/embeddings", {**good, "input": _deep(40) if "nested" in name else value})
        yield _body(f"inputs: {name}", "/v1/embeddings", {**good, "input": ["fine", value]})
        yield _body(f"model: {name}", "/v1/embeddings", {**good, "model": value})
    for key in ("dimensions", "encoding_format", MARKER):
        yield from (
            _body(key, "/v1/embeddings", {**good, key: value}) for value in (MARKER, 10**30, -1, [MARKER], True)
        )
    yield from (_body("no object", "/v1/embeddings", value) for value in _NO_OBJECTS)


def _no_json(path: str) -> Iterator[BadBody]:
    marker = MARKER.encode()
    for name, body in (
        ("broken JSON", b'{"inputs": "' + marker), ("nothing", b""), ("NaN", b'{"inputs": [NaN], "input": NaN}'),
        ("no UTF-8", b'{"input": "\xff"}'), ("nested 100,000 deep", b"[" * 100_000),
        ("twice the same key", b'{"input": 1, "input": "' + marker + b'"}'), ("2 MB", b'"' + marker * (1 << 17) + b'"'),
    ):  # fmt: skip
        yield BadBody(name, path, body, dict(JSON))
    yield BadBody("a form", path, b"input=" + marker, {"Content-Type": "application/x-www-form-urlencoded"})
    yield BadBody("gzip", path, b"\x1f\x8b", {**JSON, "Content-Encoding": "gzip"})
    yield BadBody("from a foreign page", path, b"{}", {"Origin": "http://a.b"})
