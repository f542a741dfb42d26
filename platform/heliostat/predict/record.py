"""Examples checked against the record that a head takes, and answers against the one it gives.

A request may be private, so no message holds a value of it: only its place, the field and the rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from heliostat.component import Row, closest
from heliostat.errors import ExampleProblem, PluginError, PredictError
from heliostat.plugin import Record

_MAX_DEPTH = 16
"""Levels of lists and mappings within one field."""

_PLAIN_NAME = re.compile(r"[\w.-]{1,40}", re.ASCII)
"""A name that may be shown; any other one may be a text in the wrong place."""

_AUTHORED = {"value_error", "assertion_error", "union_tag_invalid"}
"""Kinds of pydantic errors whose sentence may quote the value."""


def check_examples(examples: Sequence[Row], record: type[Record]) -> list[Row]:
    """The examples with every field of `record`, defaults filled in. Raises PredictError with every problem at once."""
    if isinstance(examples, (str, bytes, Mapping)):
        raise PredictError([ExampleProblem(0, "", "examples come as a list of mappings, as in [{...}, {...}].")])
    rows: list[Row] = []
    problems: list[ExampleProblem] = []
    for index, example in enumerate(examples):
        found = list(_unfit(example, index)) or _checked(example, index, record, rows)
        problems.extend(found)
    if problems:
        raise PredictError(problems)
    return rows


def _checked(example: Row, index: int, record: type[Record], rows: list[Row]) -> list[ExampleProblem]:
    """Append the checked example to `rows`, or say what is wrong with it."""
    try:
        rows.append(record.model_validate(dict(example)).model_dump())
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        return [ExampleProblem(index, _place(detail), _rule(detail, record)) for detail in details]
    return []


def _unfit(example: Any, index: int) -> Iterator[ExampleProblem]:
    """What no record can hold: text that is no Unicode, numbers that are not finite, nesting without end."""
    if not isinstance(example, Mapping):
        yield ExampleProblem(index, "", f"an example is a mapping of fields; found {type(example).__name__}.")
        return
    for key, value in example.items():
        if not isinstance(key, str):
            yield ExampleProblem(index, "", f"a field's name is text; found {type(key).__name__}.")
            continue
        rule = _unfit_value(key, _MAX_DEPTH) or _unfit_value(value, _MAX_DEPTH)
        if rule:
            yield ExampleProblem(index, _shown(key), rule)


def _unfit_value(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return "" if value.isascii() or _is_unicode(value) else "holds a lone surrogate, which is no Unicode text."
    if isinstance(value, float):
        return "" if math.isfinite(value) else "should be a finite number; found NaN or infinity."
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = list(value)
    if inner and depth == 0:
        return f"is nested deeper than {_MAX_DEPTH} levels."
    return next((rule for each in inner if (rule := _unfit_value(each, depth - 1))), "")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(part: Any) -> str:
    text = str(part)
    return text if _PLAIN_NAME.fullmatch(text) else "?"


def _place(detail: Any) -> str:
    return ".".join(_shown(part) for part in detail["loc"])


def _rule(detail: Any, record: type[Record]) -> str:
    if detail["type"] == "missing":
        return "is required."
    if detail["type"] == "extra_forbidden":
        names = list(record.model_fields)
        guess = closest(_place(detail), names) if len(detail["loc"]) == 1 else None
        hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(names) or 'none'}."
        return f"no such field. {hint}"
    if detail["type"] == "string_pattern_mismatch" and detail["msg"].endswith(r"'\S'"):
        return "should hold more than white space."
    message = str(detail["msg"])
    if detail["type"] in _AUTHORED and _quotes(message, detail["input"]):
        return "does not fit the record's own check."
    message = re.sub(
        r"^(Value error, |Assertion failed, |(?:Input|String|List|Dictionary|Tuple|Set) (?=should))", "", message
    )
    return message if message.endswith((".", "?", "!")) else f"{message}."


def _quotes(message: str, value: Any) -> bool:
    """Whether the message holds a part of the value."""
    if isinstance(value, Mapping):
        return any(_quotes(message, each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return any(_quotes(message, each) for each in value)
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to print a number of thousands of digits
        return False
    return value is not None and value != "" and str(value) in message


def from_encoder(error: Exception, index: int, example: Row) -> PredictError:
    """What an encoder says of an example that it cannot encode, without a value that it may quote."""
    message = str(error)
    rule = "cannot be encoded." if _quotes(message, example) else f"cannot be encoded: {message}"
    return PredictError([ExampleProblem(index, "", rule)])


def check_answers(answers: Sequence[Row], expected: int, record: type[Record], head: str) -> None:
    """Hold a head to the record it gives. Raises PluginError: a wrong answer is never the caller's fault."""
    if len(answers) != expected:
        raise PluginError(f"{head} gave {len(answers)} answers to {expected} examples.")
    for answer in answers:
        try:
            record.model_validate(answer)
        except ValidationError as error:
            detail = error.errors(include_url=False, include_context=False)[0]
            raise PluginError(
                f"{head} gave an answer that its record {record.__name__} does not allow: {_place(detail)}: "
                f"{_rule(detail, record)} Its weights may be no numbers, or its predict() is at fault."
            ) from None
