"""From the records that a head declares: the check of a request, and its description in OpenAPI."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from annotated_types import MinLen
from pydantic import BaseModel, Field, ValidationError, create_model

from heliostat.component import Row
from heliostat.plugin import Record, TaskHead
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal

_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "string_too_short": "empty_text",
    "string_unicode": "invalid_text",
    "finite_number": "invalid_number",
}
_OPAQUE = {"value_error", "assertion_error", "union_tag_invalid"}
"""Errors whose sentence may repeat the value (a plugin wrote it, or it names the tag), so it is not passed on."""


class Served(NamedTuple):
    """The name and version under which a model answers."""

    name: str
    version: int

    @property
    def header(self) -> dict[str, str]:
        """What an answer says of who gave it."""
        return {"X-Model": f"{self.name}:{self.version}"}


class Exchange(NamedTuple):
    """What a model's predict route takes and gives, as types: for OpenAPI."""

    request: type[BaseModel]
    response: type[BaseModel]


class ModelTag(BaseModel):
    """The model that answered."""

    name: str
    version: int


def exchange(head: TaskHead, name: str, limits: Limits) -> Exchange:
    """The request and response types of a head, named after the model so that several share one OpenAPI page."""
    word = "".join(part.capitalize() for part in re.split(r"[^a-z0-9]+", name))
    instances = Field(min_length=1, max_length=limits.max_instances, description="The records to predict.")
    request = create_model(f"{word}Request", instances=(list[head.takes], instances))  # type: ignore[name-defined]
    response = create_model(
        f"{word}Response",
        predictions=(list[head.gives], Field(description="One a record, in order.")),  # type: ignore[name-defined]
        model=(ModelTag, ...),
        latency_ms=(float, Field(description="Milliseconds between the request's arrival here and its answer.")),
    )
    return Exchange(request, response)


def parse_json(body: bytes) -> Any:
    """The value of a JSON body. Raises Refusal (400) for what RFC 8259 does not call JSON, and for duplicate keys."""
    if not body:
        raise Refusal(400, "empty_body", 'The body is empty. It takes the form {"instances": [...]}.')
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Refusal(400, "invalid_utf8", "The body is not UTF-8 text.") from None
    except RecursionError:
        raise Refusal(400, "nested_too_deeply", "The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refusal(400, "invalid_json", f"The body is not JSON: it breaks at {place}.") from None
    except ValueError:  # an integer with thousands of digits
        raise Refusal(400, "invalid_json", "The body holds a number that is too long.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Refusal(400, "duplicate_key", "An object in the body has the same key twice.")
    return values


def _no_constant(_: str) -> Any:
    raise Refusal(400, "invalid_json", "NaN and Infinity are not JSON.")


class RequestCheck:
    """Checks a parsed body against the record that a head takes, before it may enter the queue."""

    def __init__(self, takes: type[Record], limits: Limits) -> None:
        self._takes = takes
        self._limits = limits
        self._names = _property_names(takes.model_json_schema())
        self._texts = [
            name
            for name, field in takes.model_fields.items()
            if any(isinstance(rule, MinLen) and rule.min_length >= 1 for rule in field.metadata)
        ]

    def rows(self, value: Any) -> list[Row]:
        """The records of a body. Raises Refusal: 422 with the field for a wrong shape, 413 for too much."""
        return [self._row(place, record) for place, record in enumerate(self._instances(value))]

    def _instances(self, value: Any) -> Sequence[Any]:
        if not isinstance(value, dict):
            raise Refusal(422, "wrong_type", 'The body is an object of the form {"instances": [...]}.')
        if "instances" not in value:
            raise Refusal(422, "missing_field", "The body needs the key 'instances', a list of records.", "instances")
        if len(value) > 1:
            raise Refusal(422, "unknown_field", "The body takes the key 'instances' and no other.")
        instances = value["instances"]
        if not isinstance(instances, list):
            raise Refusal(422, "wrong_type", "'instances' is a list of records.", "instances")
        if not instances:
            raise Refusal(422, "empty_instances", "'instances' needs one record or more.", "instances")
        if len(instances) > self._limits.max_instances:
            records = "one record" if self._limits.max_instances == 1 else f"{self._limits.max_instances} records"
            message = f"A request takes {records} at most. Send several requests."
            raise Refusal(413, "too_many_instances", message, "instances")
        return instances

    def _row(self, place: int, record: Any) -> Row:
        where = f"instances[{place}]"
        if not isinstance(record, dict):
            fields = ", ".join(self._takes.model_fields)
            raise Refusal(422, "wrong_type", f"A record is an object with the fields: {fields}.", where)
        try:
            row = self._takes.model_validate(record).model_dump()
        except ValidationError as error:
            raise self._refusal(where, error.errors(include_url=False, include_input=False)[0]) from None
        for name in self._texts:
            # A rule of requests: what is only white space says nothing to a model, whatever its length.
            if isinstance(row[name], str) and not row[name].strip():
                raise _blank(f"{where}.{name}")
        return row

    def _refusal(self, where: str, detail: Mapping[str, Any]) -> Refusal:
        kind = str(detail["type"])
        if kind == "extra_forbidden":
            fields = ", ".join(self._takes.model_fields)
            return Refusal(422, "unknown_field", f"A record takes the fields {fields} and no other.", where)
        field = where + "".join(self._step(part) for part in detail["loc"])
        if kind in {"string_too_long", "too_long"}:
            most = detail["ctx"]["max_length"]
            unit = "characters" if kind == "string_too_long" else "entries"
            code = "text_too_long" if kind == "string_too_long" else "list_too_long"
            return Refusal(413, code, f"At most {most} {unit} are taken here.", field)
        if kind == "string_pattern_mismatch" and detail["ctx"]["pattern"] == r"\S":
            return _blank(field)
        code = _CODES.get(kind) or ("wrong_type" if kind.endswith("_type") else "invalid_value")
        message = "The value breaks a rule of this field." if kind in _OPAQUE else f"{detail['msg']}."
        return Refusal(422, code, message, field)

    def _step(self, part: int | str) -> str:
        if isinstance(part, int):
            return f"[{part}]"
        return f".{part}" if part in self._names else ".*"


def _blank(field: str) -> Refusal:
    return Refusal(422, "empty_text", "The text holds nothing but white space.", field)


def _property_names(schema: Any) -> set[str]:
    """Every property name in a JSON schema: what an error may name without repeating the input."""
    names: set[str] = set()
    if isinstance(schema, dict):
        properties = schema.get("properties")
        names |= set(properties) if isinstance(properties, dict) else set()
        for value in schema.values():
            names |= _property_names(value)
    elif isinstance(schema, list):
        for value in schema:
            names |= _property_names(value)
    return names
