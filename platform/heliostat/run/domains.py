"""What a searched setting may take, as a run file and the command line write it.

    log(1e-5,1e-2)          a number, each order of magnitude as likely as the next
    uniform(0,0.3)          a number
    quniform(0,0.3,0.05)    a number in steps
    int(2,8)                a whole number, both ends included
    logint(8,512)           a whole number, small ones more often
    qint(2048,16384,2048)   a whole number in steps
    choice(mini,small)      one of the values, each written as in a run file; `[mini, small]` in a file is short for it

A setting that exists only under a choice says so: `int(4,32) if encoder.preset=mini|small`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from heliostat.component import closest
from heliostat.errors import RunError
from heliostat.yaml12 import parse

_FORM = re.compile(r"([a-z]\w*)\s*\((.*)\)", re.DOTALL)
_CONDITION = re.compile(r"(.*\))\s+if\s+([\w.-]+)\s*=\s*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; in steps of `step` where it is set."""

    low: float
    high: float
    step: float | None = None
    is_log: bool = False
    is_whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values by which a rule of the setting would be broken first."""
        return (self.low, self.high)

    def size(self) -> int | None:
        """How many values there are; None where they cannot be counted."""
        if self.low == self.high:
            return 1
        return None if self.step is None else int((self.high - self.low) / self.step + 1e-9) + 1

    def values(self) -> Iterator[Any]:
        """Every value, where they can be counted."""
        if self.step is not None:
            for place in range(self.size() or 0):
                value = self.low + place * self.step
                yield value if self.is_whole else round(value, 12)

    def widened(self, value: Any) -> Range:
        """The range that reaches to `value`, without its step where that would leap over it."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (self.is_log and value <= 0):
            return self
        reached = replace(self, low=min(self.low, value), high=max(self.high, value))
        is_off = self.step is not None and not (reached._leads_to(value) and reached._leads_to(reached.high))
        return replace(reached, step=1 if self.is_whole else None) if is_off else reached

    def _leads_to(self, value: float) -> bool:
        return self.step is None or math.isclose(math.remainder(value - self.low, self.step), 0.0, abs_tol=1e-9)

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else (int, float)):
            return False
        if not self.low <= value <= self.high:
            return False
        return self._leads_to(value)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    options: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every value: each may break a rule of its own."""
        return self.options

    def size(self) -> int:
        """How many values there are."""
        return len(self.options)

    def values(self) -> Iterator[Any]:
        """Every value."""
        return iter(self.options)

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of them; `1` and `true` are not the same."""
        return json.dumps(value) in [json.dumps(option) for option in self.options]


Domain = Range | Choice


class Condition(NamedTuple):
    """A setting exists only while `key` has one of `options`."""

    key: str
    options: tuple[Any, ...]


class Dimension(NamedTuple):
    """One searched setting: its dotted key, what it may take, and under which choice it exists."""

    key: str
    domain: Domain
    condition: Condition | None = None

    def __str__(self) -> str:
        """The domain as a run file writes it."""
        form = _written(self.domain)
        if self.condition is None:
            return form
        return f"{form} if {self.condition.key}={'|'.join(map(_plain, self.condition.options))}"

    def spelled(self, value: Any) -> Any:
        """`value` as the domain has it: 3 where a run has 3.0 and the domain whole numbers, and the other way round."""
        other = _other_spelling(value)
        return other if other is not None and self.domain.holds(other) and not self.domain.holds(value) else value

    def widened(self, value: Any) -> Dimension:
        """The same with `value` among what it may take, where that can be: a text lies in no range of numbers."""
        value = self.spelled(value)
        if isinstance(self.domain, Range) and self.domain.is_whole and isinstance(value, float):
            value = int(value) if value.is_integer() else value
        if self.domain.holds(value):
            return self
        if isinstance(self.domain, Choice):
            return self._replace(domain=Choice((*self.domain.options, value)))
        wide = self.domain.widened(value)
        return self._replace(domain=wide) if wide.holds(value) else self


def is_domain(text: str) -> bool:
    """Whether the text after `key=` names a domain rather than one value; one that is not closed counts, too."""
    form = _split(text.strip())[0]
    return bool(_FORM.fullmatch(form)) or (form.partition("(")[0].strip() in {*_RANGES, "choice"} and "(" in form)


def dimension(key: str, written: Any) -> Dimension:
    """The dimension that a run file or the command line writes. Raises ValueError with the rule and the way out."""
    if isinstance(written, list):
        return Dimension(key, _choice(written))
    if not isinstance(written, str):
        raise ValueError(f"takes a domain, as log(1e-5,1e-2) or choice(a,b); found {json.dumps(written)}.")
    form, condition = _split(written.strip())
    match = _FORM.fullmatch(form)
    if not match:
        raise ValueError(f"takes a domain, as log(1e-5,1e-2) or choice(a,b); found '{written}'.")
    return Dimension(key, _domain(match[1], match[2]), _condition(condition) if condition else None)


def _split(text: str) -> tuple[str, str]:
    match = _CONDITION.fullmatch(text)
    return (match[1].strip(), f"{match[2]}={match[3]}") if match else (text, "")


def _condition(text: str) -> Condition:
    key, _, options = text.partition("=")
    return Condition(key, tuple(_parsed(f"[{options.replace('|', ', ')}]")))


def _domain(name: str, inner: str) -> Domain:
    arguments = _parsed(f"[{inner}]")
    if name == "choice":
        return _choice(arguments)
    if name not in _RANGES:
        forms = [*_RANGES, "choice"]
        guess = closest(name, forms)
        raise ValueError(
            f"there is no domain '{name}'. "
            + (f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(forms)}.")
        )
    return _range(name, arguments)


class _Form(NamedTuple):
    is_log: bool
    is_whole: bool
    has_step: bool


_RANGES = {
    "log": _Form(True, False, False),
    "uniform": _Form(False, False, False),
    "quniform": _Form(False, False, True),
    "int": _Form(False, True, False),
    "logint": _Form(True, True, False),
    "qint": _Form(False, True, True),
}


def _range(name: str, arguments: list[Any]) -> Range:
    form = _RANGES[name]
    wanted = 3 if form.has_step else 2
    example = f"{name}(low,high{',step' if form.has_step else ''})"
    if len(arguments) != wanted or not all(type(each) in (int, float) for each in arguments):
        raise ValueError(f"takes the form {example} with {wanted} numbers.")
    if form.is_whole and not all(type(each) is int for each in arguments):
        raise ValueError(f"{name} takes whole numbers: {example}.")
    low, high, *rest = arguments
    if not low <= high:
        raise ValueError(f"{example} needs low <= high; found {low} and {high}.")
    if form.is_log and low <= 0:
        raise ValueError(f"{example} needs numbers above 0; found {low}. Take uniform or int.")
    if rest and (rest[0] <= 0 or abs(math.remainder(high - low, rest[0])) > 1e-9 * max(1.0, abs(high))):
        raise ValueError(f"{example} needs a step above 0 that leads from {low} to {high}; found {rest[0]}.")
    step = rest[0] if rest else 1 if form.is_whole else None
    return Range(low, high, step, form.is_log, form.is_whole)


def _written(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return f"choice({','.join(map(_plain, domain.options))})"
    has_step = domain.step is not None and not (domain.is_whole and domain.step == 1)
    form = _Form(domain.is_log, domain.is_whole, has_step)
    name = next(name for name, each in _RANGES.items() if each == form)
    ends = (domain.low, domain.high, *([domain.step] if has_step else []))
    return f"{name}({','.join(map(_plain, ends))})"


def _other_spelling(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    is_read_back = isinstance(value, str) and json.dumps(_read(value)) == json.dumps([value])
    return str(value) if is_read_back else json.dumps(value)


def _read(text: str) -> list[Any]:
    try:
        return _parsed(f"[{text}]")
    except ValueError:
        return []


def _choice(options: list[Any]) -> Choice:
    written = [json.dumps(option, sort_keys=True) for option in options]
    if not options:
        raise ValueError("choice(a,b) needs a value.")
    twice = next((text for text in written if written.count(text) > 1), None)
    if twice:
        raise ValueError(f"choice names {twice} twice. Keep one of them.")
    return Choice(tuple(options))


def _parsed(text: str) -> list[Any]:
    try:
        values = parse(text, "")
    except RunError as error:
        raise ValueError(f"cannot be read: {error.problems[0].rule}") from None
    return list(values)
