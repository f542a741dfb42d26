"""What prepared data are like, in numbers that hold no text of theirs: counts, class balance, token lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heliostat.component import Row
from heliostat.data.shards import Shards

_MAX_CLASSES = 200
"""A target with more values than this is no class, and its values are not listed."""

_PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


class Stats:
    """Collects the numbers of `stats.json`."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"splits": {}}

    def set(self, name: str, value: Any) -> None:
        """Note one number of the whole."""
        self.values[name] = value

    def describe(self, split: str, count: int, shards: Path, examples: Iterable[Row], targets: Sequence[str]) -> None:
        """Note the numbers of one split: how many, tokens by percentile, and how often each class occurs."""
        lengths = Shards.open(shards).lengths
        percentiles = np.percentile(lengths, _PERCENTILES) if len(lengths) else np.zeros(len(_PERCENTILES))
        tokens = {f"p{share}": int(value) for share, value in zip(_PERCENTILES, percentiles, strict=True)}
        self.values["splits"][split] = {
            "examples": count,
            "tokens": {"sum": int(np.sum(lengths, dtype=np.int64)), **tokens},
            "classes": _classes(examples, targets),
        }


def _classes(examples: Iterable[Row], targets: Sequence[str]) -> dict[str, dict[str, int]]:
    """Target field -> class -> examples, for targets that are classes."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in targets}
    for example in examples if counts else ():
        for name in list(counts):
            if not isinstance(example[name], (str, int, bool)):
                del counts[name]
                continue
            counts[name][str(example[name])] += 1
            if len(counts[name]) > _MAX_CLASSES:
                del counts[name]
    return {name: dict(sorted(counter.items())) for name, counter in counts.items()}
