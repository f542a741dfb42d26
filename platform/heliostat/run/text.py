"""A run as YAML that reads back as the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.errors import RunError
from heliostat.run.settings import Run
from heliostat.yaml12 import parse


def render(run: Run, given: Sequence[tuple[Mapping[str, Any], str]] = ()) -> str:
    """The resolved run as YAML, each value that was not left to its default with a comment that says who gave it.

    `given` holds (values, who gave them), the strongest first; values are nested as in a run file.
    """
    sources = [(_keys(values), name) for values, name in given]
    lines: list[tuple[str, str]] = []
    _write(run.dump(), "", sources, lines)
    width = min(60, max((len(text) for text, note in lines if note), default=0))
    return "".join(f"{text:<{width}}  # {note}\n" if note else f"{text}\n" for text, note in lines)


def _write(
    values: Mapping[str, Any], prefix: str, sources: Sequence[tuple[set[str], str]], lines: list[tuple[str, str]]
) -> None:
    for key, value in values.items():
        dotted, indent = prefix + key, "  " * prefix.count(".")
        if isinstance(value, Mapping) and value:
            lines.append((f"{indent}{_scalar(key)}:", ""))
            _write(value, f"{dotted}.", sources, lines)
        else:
            note = next((name for keys, name in sources if dotted in keys), "")
            lines.append((f"{indent}{_scalar(key)}: {_flow(value)}", note))


def _keys(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted keys under which `values` holds something that is no mapping; `head: core.x` counts as `head.type`."""
    keys: set[str] = set()
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        keys |= _keys(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted, f"{dotted}.type"}
    return keys


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """Plain where it reads back as the same value, quoted as in JSON (which YAML 1.2 contains) where it does not."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        plain = parse(f"[{value}]", "") == [value] and parse(f"key: {value}", "") == {"key": value}
    except RunError:
        plain = False
    if plain and value.isprintable():
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)
