"""A form from a record: one control for each field of its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from textwrap import shorten
from typing import Any, NamedTuple

import gradio as gr

from heliostat.component import Row


class FormField(NamedTuple):
    """One field of a record and the control that fills it."""

    name: str
    control: Any
    is_json: bool
    """Whether the control holds JSON text, for fields that no single control fits."""
    is_lines: bool = False
    """Whether the control holds a list of texts, one a line."""


MANY = 6
"""A form of more fields has two columns."""

Choices = Mapping[str, Sequence[tuple[str, str]]]
"""For list fields what may be picked: (what is shown, what is sent)."""


def build_form(schema: Mapping[str, Any], choices: Choices | None = None, prefix: str = "") -> list[FormField]:
    """Controls for the properties of a record, made inside the current Blocks; many of them stand side by side.

    A field that may be left out and has one value only asks for nothing, so it gets none.
    """
    required, offered = set(schema.get("required", ())), choices or {}
    rules = {name: _resolved(schema, rule) for name, rule in schema.get("properties", {}).items()}
    asked = [name for name, rule in rules.items() if name in required or "const" not in rule]
    width = 2 if len(asked) > MANY else 1
    may_be_left_out = "" if len(required) < len(asked) / 2 else " (optional)"
    must_be_there = " (needed)" if not may_be_left_out else ""
    titles = {name: _title(name) + (must_be_there if name in required else may_be_left_out) for name in asked}
    found: list[FormField] = []
    for start in range(0, len(asked), width):
        with gr.Row() if width > 1 else nullcontext():
            for name in asked[start:][:width]:
                words = {"label": titles[name], "elem_id": f"{prefix}field-{name}"}
                found.append(_field(name, words, rules[name], offered.get(name)))
    return found


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _resolved(schema: Mapping[str, Any], rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rule itself: a reference followed, and of `X or null` the X."""
    if "$ref" in rule:
        return {**schema["$defs"][rule["$ref"].rpartition("/")[2]], **rule}
    options = [option for option in rule.get("anyOf", ()) if option.get("type") != "null"]
    return {**options[0], **rule} if len(options) == 1 else rule


def _field(
    name: str, words: dict[str, Any], rule: Mapping[str, Any], choices: Sequence[tuple[str, str]] | None
) -> FormField:
    words["info"] = rule.get("description")
    kind = rule.get("type")
    if choices and kind == "array":
        pick = {"choices": list(choices), "value": [], "multiselect": True, "allow_custom_value": True}
        return FormField(name, gr.Dropdown(**pick, **words), False)
    if "enum" in rule:
        return FormField(name, gr.Dropdown(choices=list(rule["enum"]), value=rule.get("default"), **words), False)
    if kind == "boolean":
        return FormField(name, gr.Checkbox(value=bool(rule.get("default")), **words), False)
    if kind in {"number", "integer"}:
        limits = {"minimum": rule.get("minimum"), "maximum": rule.get("maximum")}
        precision = 0 if kind == "integer" else None
        return FormField(name, gr.Number(value=rule.get("default"), precision=precision, **limits, **words), False)
    if kind == "string":
        lines = 3 if rule.get("maxLength", 1000) > 200 and "format" not in rule else 1
        box = gr.Textbox(lines=lines, max_lines=10, value=rule.get("default"), **words)
        return FormField(name, box, False)
    if kind == "array" and rule.get("items", {}).get("type") == "string":
        words["info"] = f"{words['info'] or 'Several texts.'} One a line."
        return FormField(name, gr.Textbox(lines=6, max_lines=20, **words), False, is_lines=True)
    return FormField(name, gr.Textbox(lines=2, placeholder="JSON", **words), True)


def record_from(fields: Sequence[FormField], values: Sequence[Any]) -> Row:
    """The record that the form holds. Raises ValueError naming a field whose JSON is broken."""
    record: Row = {}
    for field, value in zip(fields, values, strict=True):
        if field.is_lines:
            record[field.name] = [line.strip() for line in (value or "").splitlines() if line.strip()]
            continue
        if value is None or value == "":
            if value == "" and not field.is_json:  # no JSON is no value
                record[field.name] = value
            continue
        try:
            record[field.name] = json.loads(value) if field.is_json else value
        except ValueError as error:
            raise ValueError(f"{field.name}: is no JSON ({error})") from None
    return record


def values_of(fields: Sequence[FormField], record: Mapping[str, Any]) -> list[Any]:
    """What the controls show for a record."""
    shown = [record.get(field.name) for field in fields]
    shown = [
        "\n".join(value) if field.is_lines and value is not None else value
        for field, value in zip(fields, shown, strict=True)
    ]
    return [json.dumps(v) if field.is_json and v is not None else v for field, v in zip(fields, shown, strict=True)]


def called(sample: Mapping[str, Any]) -> str:
    """A name for a sample: its values, shortened."""
    words = [
        ", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in sample.values() if value
    ]
    return shorten(" | ".join(words) or "(nothing)", 120, placeholder=" ...")
