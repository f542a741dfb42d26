"""YAML as its version 1.2 reads it, and strictly: `1e-3` is a number, `no` is a word, a key stands once."""

from __future__ import annotations

import re
from typing import Any

import yaml

from heliostat.errors import Problem, RunError

_FLOAT = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_BASES = {"0o": 8, "0x": 16}


def _int(text: str) -> int:
    base = _BASES.get(text[:2])
    return int(text[2:], base) if base else int(text, 10)


class _Loader(yaml.SafeLoader):
    """The safe loader with the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema)."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _int(node.value))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise RunError([Problem(str(key.value), f"stands twice (again in line {line}). Keep one of them.")])
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str, source: str) -> Any:
    """The value that `text` stands for. Raises RunError with the line of a mistake in its form."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a safe loader with a stricter schema)
    except RunError as error:
        raise RunError(error.problems, source=source) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RunError([Problem(where, f"is no YAML: {error.problem}.")], source=source) from None
    except yaml.YAMLError as error:
        raise RunError([Problem("", f"is no YAML: {error}.")], source=source) from None
