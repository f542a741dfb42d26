"""How many examples each step of cleaning and balancing touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

from heliostat.data.examples import Example
from heliostat.run.cleaning import CleanSettings

Effect = Literal["changed", "left out", "added"]


class Touched(NamedTuple):
    """One step, and what it did."""

    step: str
    examples: int
    effect: Effect
    times: int
    """How often it found something; more than `examples` where one text held several."""


@dataclass
class TouchedCounter:
    """Counts as examples go by. A step that was asked for and touched nothing is listed with 0."""

    _found: dict[str, Touched] = field(default_factory=dict)

    @classmethod
    def of(cls, clean: CleanSettings | None) -> Self:
        """A counter that lists every step of `clean` that may change or leave out single examples."""
        counter = cls()
        if clean:
            steps = [*clean.normalise, *(f"redact {kind}" for kind in clean.redact)]
            for step in steps:
                counter.add(step, 0, "changed")
            if clean.languages:
                counter.add("other language", 0, "left out")
        return counter

    def add(self, step: str, examples: int, effect: Effect, times: int | None = None) -> None:
        """Note that a step touched so many examples."""
        before = self._found.get(step, Touched(step, 0, effect, 0))
        more = examples if times is None else times
        self._found[step] = before._replace(examples=before.examples + examples, times=before.times + more)

    def count(self, example: Example) -> None:
        """Note what cleaning did to one example; one in another language is left out and counts for that alone."""
        if example.language is not None:
            self.add("other language", 1, "left out")
            return
        for step, times in example.touched.items():
            self.add(step, 1, "changed", times)

    def rows(self) -> list[Touched]:
        """What each step touched, in the order of the steps."""
        return list(self._found.values())
