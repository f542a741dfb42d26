"""A tree of classes, level by level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from heliostat.errors import DataError

UNKNOWN = -1
"""The number of a class that is not in the tree."""


class Tree(NamedTuple):
    """The classes of each level in order, and the number of each one's parent on the level above."""

    labels: tuple[tuple[str, ...], ...]
    parents: tuple[tuple[int, ...], ...]
    """0 for those of the top level."""

    @classmethod
    def of(cls, paths: Iterable[Sequence[str]]) -> Self:
        """The tree that these paths go down. Raises DataError for a class below two parents."""
        levels: list[dict[str, str]] = []
        for path in paths:
            levels = levels or [{} for _ in path]
            for place, label in enumerate(path):
                above = path[place - 1] if place else ""
                if levels[place].setdefault(label, above) != above:
                    raise DataError(
                        f"the class {label!r} lies below {levels[place][label]!r} and below {above!r}; in a tree each "
                        "class lies below one. Put the parent's name into its own."
                    )
        labels = tuple(tuple(sorted(level)) for level in levels)
        numbers = [{label: number for number, label in enumerate(level)} for level in labels]
        parents = tuple(
            tuple(numbers[place - 1][levels[place][label]] if place else 0 for label in level)
            for place, level in enumerate(labels)
        )
        return cls(labels, parents)

    def numbers(self, path: Sequence[str]) -> list[int]:
        """The number of each class of a path on its level; UNKNOWN from the first on that is not in the tree."""
        found: list[int] = []
        for level, label in zip(self.labels, path, strict=True):
            lost = bool(found) and found[-1] == UNKNOWN
            found.append(UNKNOWN if lost or label not in level else level.index(label))
        return found
