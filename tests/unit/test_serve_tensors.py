"""Records as tensors and back: every kind of field, JSON and bytes, and what is refused."""

from __future__ import annotations

import json
from datetime import date
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field

from heliostat.plugin import Record
from heliostat.serve.refusal import Refusal
from heliostat.serve.tensors import given, read, taken, write


class Loan(Record):
    name: str = Field(min_length=1)
    amount: float
    people: int
    is_new: bool
    day: date
    size: Literal["small", "large"] = "small"
    city: str | None = None
    income: float | int | None = None
    tags: list[str] = Field(default_factory=list)


class Risk(Record):
    label: str
    probabilities: dict[str, float]
    reasons: list[dict[str, float]]
    rank: int
    is_sure: bool
    note: str | None = None


TAKES, GIVES = taken(Loan), given(Risk)


def tensor(name: str, datatype: str, data: Any, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape) or [len(data)], "data": data}


def in_bytes(name: str, datatype: str, size: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": size}}


def bytes_of(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def test_each_kind_of_field_is_a_tensor() -> None:
    kinds = {each.name: (each.kind, each.may_be_missing) for each in TAKES}
    assert kinds == {
        "name": ("text", False), "amount": ("number", False), "people": ("integer", False), "is_new": ("truth", False),
        "day": ("text", False), "size": ("text", False), "city": ("text", True), "income": ("number", True),
        "tags": ("json", False),
    }  # fmt: skip
    assert [each.kind for each in GIVES] == ["text", "numbers", "json", "integer", "truth", "text"]
    assert TAKES[-1].described() == {
        "name": "tags", "datatype": "BYTES", "shape": [-1], "parameters": {"content": "json"},
    }  # fmt: skip
    assert GIVES[1].described() == {"name": "probabilities", "datatype": "FP64", "shape": [-1, -1]}


def test_json_and_bytes_say_the_same() -> None:
    plain = {
        "inputs": [
            tensor("name", "BYTES", ["Größe", "b"]),
            tensor("amount", "FP32", [[1.5], [2.5]], 2, 1),
            tensor("people", "INT64", [3, 4]),
            tensor("is_new", "BOOL", [True, False]),
            tensor("city", "BYTES", ["", "Rome"]),
            tensor("tags", "BYTES", ['["x"]', "[]"]),
        ]
    }
    parts = {
        "name": bytes_of("Größe".encode(), b"b"),
        "amount": np.array([1.5, 2.5], "<f4").tobytes(),
        "people": np.array([3, 4], "<i8").tobytes(),
        "is_new": b"\1\0",
        "city": bytes_of(b"", b"Rome"),
        "tags": bytes_of(b'["x"]', b"[]"),
    }
    heads = [{k: v for k, v in each.items() if k != "data"} for each in plain["inputs"]]
    packed = {"inputs": [{**each, "parameters": {"binary_data_size": len(parts[each["name"]])}} for each in heads]}
    rows, asked = read(plain, b"", TAKES, GIVES)
    assert rows == read(packed, b"".join(parts.values()), TAKES, GIVES)[0]
    assert rows[0] == {
        "name": "Größe", "amount": 1.5, "people": 3, "is_new": True, "city": None, "tags": ["x"],
    }  # fmt: skip
    assert asked.id is None
    assert set(asked.outputs.values()) == {False}


def test_gaps_and_lists_of_one_length() -> None:
    income = np.array([np.nan, 2.0], "<f8").tobytes()
    body = {
        "id": "a 7",
        "inputs": [
            {"name": "income", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": len(income)}},
            tensor("tags", "BYTES", [["a", "b"], ["c", "d"]], 2, 2),
        ],
        "outputs": [{"name": "rank", "parameters": {"binary_data": True}}, {"name": "label"}],
    }
    rows, asked = read(body, income, TAKES, GIVES)
    assert rows == [{"income": None, "tags": ["a", "b"]}, {"income": 2.0, "tags": ["c", "d"]}]
    assert (asked.id, asked.outputs) == ("a 7", {"rank": True, "label": False})


@pytest.mark.parametrize("in_binary", [False, True])
def test_predictions_come_back_as_they_are(in_binary: bool) -> None:
    answers = [
        {"label": "a", "probabilities": {"a": 0.75, "b": 0.25}, "reasons": [{"x": 1.0}], "rank": 1, "is_sure": True},
        {"label": "ß", "probabilities": {"b": 0.5, "a": 0.5}, "reasons": [], "rank": 2, "is_sure": False},
    ]
    answers[1]["note"] = "n"  # the first has none: the record has a default there
    _, asked = read(
        {"inputs": [tensor("amount", "FP64", [1.0])], "parameters": {"binary_data_output": in_binary}},
        b"", TAKES, GIVES,
    )  # fmt: skip
    outputs, packed = write(answers, GIVES, asked)
    found = {}
    for output in outputs:
        size = output.get("parameters", {}).get("binary_data_size")
        assert (size is None) == (not in_binary)
        data = output.get("data")
        if size is not None:
            own, packed = packed[:size], packed[size:]
            kind = {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}.get(output["datatype"])
            data = np.frombuffer(own, kind).tolist() if kind else texts(own)
        found[output["name"]] = (output["shape"], data)
        assert np.prod(output["shape"]) == len(data)
    assert packed == b""
    assert found["label"] == ([2], ["a", "ß"])
    assert found["probabilities"] == ([2, 2], [0.75, 0.25, 0.5, 0.5])
    assert outputs[1]["parameters"]["names"] == ["a", "b"]
    assert [json.loads(each) for each in found["reasons"][1]] == [[{"x": 1.0}], []]
    assert found["rank"][1] == [1, 2]
    assert found["is_sure"][1] == [True, False]
    assert [json.loads(each) for each in found["note"][1]] == [None, "n"]


def texts(packed: bytes) -> list[str]:
    found = []
    while packed:
        size = int.from_bytes(packed[:4], "little")
        found.append(packed[4 : 4 + size].decode())
        packed = packed[4 + size :]
    return found


def test_numbers_under_other_names_come_as_json() -> None:
    asked = read(
        {"inputs": [tensor("amount", "FP64", [1.0])], "outputs": [{"name": "probabilities"}]}, b"", TAKES, GIVES
    )[1]
    (output,), _ = write([{"probabilities": {"a": 1.0}}, {"probabilities": {"b": 1.0}}], GIVES, asked)
    assert (output["datatype"], output["data"]) == ("BYTES", ['{"a": 1.0}', '{"b": 1.0}'])


@pytest.mark.parametrize(
    ("sent", "binary", "code", "field"),
    [
        (tensor("amount", "BYTES", ["1"]), b"", "wrong_type", "amount"),
        (tensor("amount", "BF16", [1]), b"", "wrong_type", "amount"),
        (tensor("name", "FP32", [1]), b"", "wrong_type", "name"),
        (tensor("amount", "FP64", [1.0, 2.0], 3), b"", "wrong_shape", "amount"),
        (tensor("amount", "FP64", [1.0], 1 << 40), b"", "wrong_shape", "amount"),
        (tensor("tags", "BYTES", [], 1 << 30, 0), b"", "wrong_shape", "tags"),
        (tensor("tags", "BYTES", ["no json"]), b"", "invalid_json", "tags"),
        (tensor("amount", "FP64", [], 0), b"", "wrong_shape", "inputs"),
        (tensor("amount", "FP64", [1.0]), b"x", "wrong_shape", "inputs"),
        (in_bytes("name", "BYTES", 9), b"\xff\xff\xff\xff12345", "wrong_shape", "name"),
        (in_bytes("name", "BYTES", 5), b"\1\0\0\0\xff", "invalid_utf8", "name"),
        (in_bytes("amount", "FP64", 3), b"abc", "wrong_shape", "amount"),
        (tensor("nobody", "FP64", [1.0]), b"", "unknown_field", "inputs[0]"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_of_the_record_is_named(sent: Any, binary: bytes, code: str, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        read({"inputs": [sent]}, binary, TAKES, GIVES)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_tensors_of_unequal_counts_and_unknown_outputs() -> None:
    two = [tensor("amount", "FP64", [1.0]), tensor("people", "INT64", [1, 2])]
    with pytest.raises(Refusal, match="422 wrong_shape"):
        read({"inputs": two}, b"", TAKES, GIVES)
    for more in ({"outputs": [{"name": "secret"}]}, {"id": "x" * 129}, {"id": "\n"}, {"extra": 1}, {"parameters": [1]}):
        with pytest.raises(Refusal) as refused:
            read({"inputs": two[:1], **more}, b"", TAKES, GIVES)
        assert "secret" not in refused.value.message
