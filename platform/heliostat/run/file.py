"""Run files and the overrides laid over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heliostat.component import Component, closest
from heliostat.errors import Problem, RunError
from heliostat.registry import entry_points, find, package_folder
from heliostat.run.settings import Run
from heliostat.yaml12 import parse


def check(values: Any, *, source: str = "") -> Run:
    """A frozen Run from plain values. Raises RunError with every mistake at once."""
    if not isinstance(values, Mapping):
        raise RunError([Problem("", "a run is a mapping with the keys name, data, encoder and head.")], source=source)
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [Problem(".".join(map(str, detail["loc"])), str(detail["msg"])) for detail in details]
        raise RunError(problems, source=source) from None


def locate(reference: str) -> Path:
    """The file of a run: a path, or `plugin/name` for a run that a plugin carries.

    Raises RunError naming the runs there are, and PluginError when no such plugin is installed.
    """
    path = Path(reference).expanduser()
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise RunError([Problem("", f"there is no run file '{reference}'.")])
        return path
    plugin, _, name = reference.partition("/")
    there = runs()
    if reference in there:
        return there[reference]
    if name and plugin not in entry_points():
        find(f"{plugin}.run", Component)  # raises with the plugin that was probably meant
    guess = closest(reference, list(there))
    hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(there) or 'none'}."
    raise RunError([Problem("", f"there is no run '{reference}'. {hint}")])


def runs() -> dict[str, Path]:
    """Every run that an installed plugin carries, as `plugin/name`."""
    folders = {plugin: package_folder(plugin) for plugin in sorted(entry_points())}
    return {
        f"{plugin}/{path.stem}": path
        for plugin, folder in folders.items()
        if folder
        for path in sorted((folder / "runs").glob("*.yaml"))
    }


def read(path: Path) -> Any:
    """The plain values of a run file, unchecked. Raises RunError when it is no strict YAML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RunError([Problem("", "is not UTF-8 text.")], source=str(path)) from None
    except OSError as error:
        raise RunError([Problem("", f"cannot be read: {error.strerror}.")], source=str(path)) from None
    return parse(text, str(path))


def load(reference: str, overrides: Sequence[str] = ()) -> Run:
    """The run at `reference` with `key.path=value` overrides laid over it.

    Raises RunError with every mistake at once.
    """
    return laid(reference, overrides)[0]


def laid(reference: str, overrides: Sequence[str] = ()) -> tuple[Run, dict[str, Any]]:
    """What `load` gives, and the plain values that it was checked from: what the file and the overrides say, no more.

    Other values can be laid over these with `place`, as if they had been given on the command line.
    """
    path = locate(reference)
    values = read(path)
    problems = [problem for override in overrides if (problem := _lay(values, override))]
    problems += _repeated([override.partition("=")[0].strip() for override in overrides])
    try:
        run = check(values)
    except RunError as error:
        raise RunError([*problems, *error.problems], source=str(path)) from None
    if problems:
        raise RunError(problems, source=str(path))
    return run, values


def place(values: Mapping[str, Any], laid_over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `values` with the value of each dotted key of `laid_over` put in its place. Raises RunError."""
    copy = deepcopy(dict(values))
    problems = [problem for key, value in laid_over.items() if (problem := _place(copy, key.split("."), value, ""))]
    if problems:
        raise RunError(problems)
    return copy


def nested(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `key.path=value` overrides, nested as in a run file. Raises RunError with every mistake at once."""
    values: dict[str, Any] = {}
    problems = [problem for override in overrides if (problem := _lay(values, override))]
    if problems:
        raise RunError(problems)
    return values


def _repeated(keys: Sequence[str]) -> list[Problem]:
    twice = sorted({key for key in keys if keys.count(key) > 1})
    return [Problem(key, "is given twice. Keep one of them.") for key in twice]


def _lay(values: Any, override: str) -> Problem | None:
    """Lay one `a.b.c=value` over `values`, in place."""
    key, sign, text = (part.strip() for part in override.partition("="))
    if not sign or not all(key.split(".")):
        return Problem(override, "an override takes the form key=value, as in train.lr=3e-4.")
    if not isinstance(values, dict):
        return None  # the file itself is the mistake, and `check` says so
    try:
        return _place(values, key.split("."), parse(text, key), "")
    except RunError as error:
        return Problem(key, error.problems[0].rule)


def _place(node: Any, path: list[str], value: Any, above: str) -> Problem | None:
    """Put `value` at `path` under `node`, in place; `above` is the dotted key of `node`."""
    if not isinstance(node, dict):
        held, form = ("a list", "[a, b]") if isinstance(node, list) else ("a single value", "value")
        return Problem(f"{above}.{'.'.join(path)}", f"'{above}' holds {held}: set it whole, as in {above}={form}.")
    first, *rest = path
    if not rest:
        node[first] = value
        return None
    below = node.get(first)
    if below is None:
        below = {}
    elif isinstance(below, str) and first in ("adapter", "encoder", "head", "optimizer"):
        below = {"type": below}  # `head: core.regression` is short for `head: {type: core.regression}`
    node[first] = below
    return _place(below, rest, value, f"{above}.{first}" if above else first)
