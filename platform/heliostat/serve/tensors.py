"""Records as the named tensors of the Open Inference Protocol v2, and back. Pure: it knows no HTTP.

Each field of a record is a tensor with one element a record: a text is BYTES, a number FP64, a whole number INT64, a
truth BOOL. A list or an object is its JSON text in BYTES; numbers by name, as the probabilities of classes, are given
as FP64 [records, names] with the names in `parameters`. JSON and the binary tensor extension are read and written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np

from heliostat.component import Row
from heliostat.plugin import Record
from heliostat.serve.refusal import Refusal
from heliostat.serve.schema import parse_json

Kind = Literal["text", "number", "integer", "truth", "numbers", "json"]

DATATYPES: dict[Kind, str] = {
    "text": "BYTES", "number": "FP64", "integer": "INT64", "truth": "BOOL", "numbers": "FP64", "json": "BYTES",
}  # fmt: skip

_NUMPY = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NUMERIC = frozenset(_NUMPY) - {"BOOL"}
_JSON_TYPES: dict[str, Kind] = {"string": "text", "number": "number", "integer": "integer", "boolean": "truth"}

_MOST_DIMENSIONS = 8


class Tensor(NamedTuple):
    """One field of a record as a tensor."""

    name: str
    kind: Kind
    may_be_missing: bool
    """Whether the record takes None there; an empty text or NaN stands for it."""

    def described(self) -> Row:
        """As a model's metadata names it."""
        shape = [-1, -1] if self.kind == "numbers" else [-1]
        content = {"parameters": {"content": "json"}} if self.kind == "json" else {}
        return {"name": self.name, "datatype": DATATYPES[self.kind], "shape": shape, **content}


class Asked(NamedTuple):
    """What a request wants back."""

    id: str | None
    outputs: Mapping[str, bool]
    """The names of the tensors, with whether each comes in binary form."""


def taken(record: type[Record]) -> tuple[Tensor, ...]:
    """The tensors that stand for the records that a head takes."""
    # What is given numbers by name would need their names beside it: it comes as JSON.
    tensors = _tensors(record.model_json_schema())
    return tuple(each._replace(kind="json") if each.kind == "numbers" else each for each in tensors)


def given(record: type[Record]) -> tuple[Tensor, ...]:
    """The tensors that stand for the records that a head gives."""
    return _tensors(record.model_json_schema(mode="serialization"))


def _tensors(schema: Mapping[str, Any]) -> tuple[Tensor, ...]:
    definitions = schema.get("$defs", {})
    return tuple(_tensor(name, field, definitions) for name, field in schema.get("properties", {}).items())


def _tensor(name: str, field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Tensor:
    kinds = [_resolved(each, definitions) for each in field.get("anyOf", [field])]
    known = [each for each in kinds if each.get("type") != "null"]
    found = {_kind(each, definitions) for each in known}
    kind: Kind = found.pop() if len(found) == 1 else "number" if found == {"number", "integer"} else "json"
    return Tensor(name, kind, len(known) < len(kinds))


def _resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(field.get("$ref", "")).removeprefix("#/$defs/")
    return definitions.get(name, field)  # type: ignore[no-any-return]


def _kind(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Kind:
    values = field.get("additionalProperties")
    if field.get("type") == "object" and isinstance(values, dict) and "properties" not in field:
        return "numbers" if _resolved(values, definitions).get("type") == "number" else "json"
    return _JSON_TYPES.get(str(field.get("type")), "json")


def read(value: Any, binary: bytes, takes: Sequence[Tensor], gives: Sequence[Tensor]) -> tuple[list[Row], Asked]:
    """The records in the JSON part of a request and the bytes behind it. Raises Refusal naming the tensor at fault.

    The values themselves are checked later, by the record.
    """
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), list):
        raise Refusal(422, "wrong_type", 'The body is an object of the form {"inputs": [...]}.', "inputs")
    if set(value) - {"id", "parameters", "inputs", "outputs"}:
        raise Refusal(422, "unknown_field", "The body takes the keys id, parameters, inputs and outputs.")
    known = {each.name: each for each in takes}
    columns: dict[str, list[Any]] = {}
    for place, tensor in enumerate(value["inputs"]):
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or name not in known or name in columns:
            names = ", ".join(known)
            raise Refusal(422, "unknown_field", f"This model takes these tensors, once each: {names}.", _at(place))
        columns[name], binary = _column(known[name], tensor, binary)
    if binary:
        raise Refusal(422, "wrong_shape", "The body has more bytes than its tensors.", "inputs")
    counts = {len(column) for column in columns.values()}
    if len(counts) != 1 or counts == {0}:
        raise Refusal(422, "wrong_shape", "The tensors need one record or more, and all the same count.", "inputs")
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows, _asked(value, gives)


def _at(place: int) -> str:
    return f"inputs[{place}]"


def _column(tensor: Tensor, sent: Mapping[str, Any], binary: bytes) -> tuple[list[Any], bytes]:
    """One value a record, and the bytes that are left for the tensors behind."""
    name = tensor.name
    datatype, shape = sent.get("datatype"), sent.get("shape")
    fitting = {"text": {"BYTES"}, "json": {"BYTES"}, "truth": {"BOOL"}}.get(tensor.kind, _NUMERIC)
    if not isinstance(datatype, str) or datatype not in fitting:
        raise Refusal(422, "wrong_type", f"The tensor takes the datatype {DATATYPES[tensor.kind]}.", name)
    if not (isinstance(shape, list) and 0 < len(shape) <= _MOST_DIMENSIONS and all(map(_is_size, shape))):
        raise Refusal(422, "wrong_shape", "A shape is a list of sizes, the count of records first.", name)
    parameters = sent.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    count = math.prod(shape)
    if size is not None:
        if not _is_size(size) or size > len(binary):
            raise Refusal(422, "wrong_shape", "The body has fewer bytes than 'binary_data_size' says.", name)
        values, binary = _from_bytes(name, datatype, binary[:size]), binary[size:]
    else:
        values = _flat(sent.get("data"), name)
    if len(values) != count:
        raise Refusal(422, "wrong_shape", "The data has another count of elements than the shape.", name)
    return _cells(tensor, shape, values), binary


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _flat(data: Any, name: str) -> list[Any]:
    """The elements of data that may be nested as its shape is, row by row."""
    if not isinstance(data, list):
        raise Refusal(422, "wrong_type", "The data is a list.", name)
    elements: list[Any] = data
    for _ in range(_MOST_DIMENSIONS):
        if not elements or not all(isinstance(each, list) for each in elements):
            return elements
        elements = list(chain.from_iterable(elements))
    raise Refusal(422, "wrong_shape", f"The data is nested more than {_MOST_DIMENSIONS} deep.", name)


def _from_bytes(name: str, datatype: str, sent: bytes) -> list[Any]:
    if datatype != "BYTES":
        kind = np.dtype(_NUMPY[datatype])
        if len(sent) % kind.itemsize:
            raise Refusal(422, "wrong_shape", "The bytes are no whole elements of this datatype.", name)
        numbers: list[Any] = np.frombuffer(sent, kind).tolist()
        return numbers
    values, place = [], 0
    while place < len(sent):
        start = place + 4
        place = start + int.from_bytes(sent[place:start], "little")
        if start > len(sent) or place > len(sent):
            raise Refusal(422, "wrong_shape", "The lengths of the elements do not fit their bytes.", name)
        try:
            values.append(sent[start:place].decode("utf-8"))
        except UnicodeDecodeError:
            raise Refusal(400, "invalid_utf8", "An element is not UTF-8 text.", name) from None
    return values


def _cells(tensor: Tensor, shape: Sequence[int], values: list[Any]) -> list[Any]:
    """What stands in the field of each record."""
    if tensor.kind == "json" and len(shape) == 2 and shape[1]:  # a list of texts each, all of one length
        return [values[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]
    if len(values) != shape[0]:
        raise Refusal(422, "wrong_shape", "The tensor has one element for each record.", tensor.name)
    if tensor.kind == "json":
        return [_parsed(each, tensor.name) for each in values]
    return [None if tensor.may_be_missing and _is_gap(each) else each for each in values]


def _is_gap(value: Any) -> bool:
    return value == "" or (isinstance(value, float) and math.isnan(value))


def _parsed(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        raise Refusal(422, "wrong_type", "Each element is a JSON text.", name)
    try:
        return parse_json(value.encode("utf-8", "surrogatepass"))
    except Refusal as refusal:
        raise Refusal(422, "invalid_json", "An element is no JSON text.", name) from refusal


def _asked(value: Mapping[str, Any], gives: Sequence[Tensor]) -> Asked:
    id, outputs, parameters = value.get("id"), value.get("outputs"), value.get("parameters") or {}
    if id is not None and not (isinstance(id, str) and re.fullmatch(r"[ -~]{0,128}", id)):
        raise Refusal(422, "invalid_value", "An id is 128 plain characters at most.", "id")
    if not isinstance(parameters, dict):
        raise Refusal(422, "wrong_type", "The parameters are an object.", "parameters")
    in_binary = parameters.get("binary_data_output") is True
    if outputs is None or outputs == []:
        return Asked(id, {each.name: in_binary for each in gives})
    names = {each.name for each in gives}
    asked: dict[str, bool] = {}
    for output in outputs if isinstance(outputs, list) else [outputs]:
        name = output.get("name") if isinstance(output, dict) else None
        own = (output.get("parameters") or {}) if isinstance(output, dict) else {}
        if not isinstance(name, str) or name not in names or not isinstance(own, dict):
            raise Refusal(422, "unknown_field", f"This model gives the tensors: {', '.join(sorted(names))}.", "outputs")
        asked[name] = bool(own.get("binary_data", in_binary))
    return Asked(id, asked)


def write(rows: Sequence[Row], gives: Sequence[Tensor], asked: Asked) -> tuple[list[Row], bytes]:
    """The outputs of a response, and the bytes of those that were asked for in binary form."""
    outputs, binary = [], []
    for tensor in gives:
        if tensor.name not in asked.outputs:
            continue
        output, values = _output(tensor, [row.get(tensor.name) for row in rows])
        if asked.outputs[tensor.name]:
            packed = _packed(output["datatype"], values)
            output["parameters"] = {**output.get("parameters", {}), "binary_data_size": len(packed)}
            binary.append(packed)
        else:
            output["data"] = values
        outputs.append(output)
    return outputs, b"".join(binary)


def _output(tensor: Tensor, cells: list[Any]) -> tuple[Row, list[Any]]:
    """A tensor without its data, and the data."""
    output: Row = {"name": tensor.name, "datatype": DATATYPES[tensor.kind], "shape": [len(cells)]}
    if tensor.kind == "numbers" and cells[0] and all(cell and cell.keys() == cells[0].keys() for cell in cells):
        names = list(cells[0])
        values = [cell[name] for cell in cells for name in names]
        return {**output, "shape": [len(cells), len(names)], "parameters": {"names": names}}, values
    if tensor.kind in {"numbers", "json"} or any(cell is None for cell in cells):
        # Also what a tensor cannot hold: numbers whose names differ from record to record, and gaps.
        return {**output, "datatype": "BYTES", "parameters": {"content": "json"}}, [
            json.dumps(cell, ensure_ascii=False, default=str) for cell in cells
        ]
    return output, cells


def _packed(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, np.dtype(_NUMPY[datatype])).tobytes()
    texts = [str(value).encode("utf-8", "replace") for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
