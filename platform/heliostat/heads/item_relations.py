"""What a ranking learns in closed form from the train histories: neighbours of each item, and a linear term."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.cooccurrence import cosine, ease, history_matrix, strongest
from heliostat.errors import DataError

NEIGHBOURS = 50
"""Items that are kept as neighbours of each."""
_WEIGHTS = 300
"""Linear weights that are kept of each row, the greatest by size: more change no answer that matters."""


@dataclass
class Relations:
    """Neighbours and linear weights, by place of the item in `names`."""

    names: tuple[str, ...] = ()
    neighbours: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Rows of cosines in compressed form: `starts` [items + 1], `places` and `values`."""
    linear: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """The same for EASE's weights; empty without a linear term."""

    @classmethod
    def fit(cls, histories: Sequence[Sequence[str]], l2: float | None) -> Relations:
        """From the train histories. Raises DataError when none holds an item, or there are too many for `l2`."""
        names = sorted({item for history in histories for item in history})
        if not names:
            raise DataError("core.ranking finds no item in the train histories. Check the adapter's item column.")
        index = {name: place for place, name in enumerate(names)}
        matrix = history_matrix([[index[item] for item in history] for history in histories], len(names))
        linear = {} if l2 is None else _largest(ease(matrix, l2))
        return cls(tuple(names), _packed(strongest(cosine(matrix), NEIGHBOURS)), linear)

    @cached_property
    def index(self) -> dict[str, int]:
        """Item -> its place."""
        return {name: place for place, name in enumerate(self.names)}

    def similar(self, item: str) -> dict[str, float]:
        """The neighbours of an item with their cosines."""
        place = self.index.get(item)
        if place is None:
            return {}
        held = slice(*self.neighbours["starts"][place : place + 2].tolist())
        pairs = zip(self.neighbours["places"][held].tolist(), self.neighbours["values"][held].tolist(), strict=True)
        return {self.names[other]: value for other, value in pairs}

    def reasons(self, item: str, history: Sequence[str], count: int) -> list[str]:
        """Up to `count` items of the history that most often go with `item`, the closest first."""
        similar = self.similar(item) if count else {}
        held = [name for name in dict.fromkeys(history) if name in similar]
        return sorted(held, key=lambda name: -similar[name])[:count]

    def save(self, folder: Path) -> None:
        """Write names as JSON and rows as safetensors."""
        from safetensors.numpy import save_file

        (folder / "relations.json").write_text(json.dumps(self.names, ensure_ascii=False), encoding="utf-8")
        parts = {"neighbours": self.neighbours, "linear": self.linear}
        save_file({f"{a}.{b}": rows for a, held in parts.items() for b, rows in held.items()}, _rows(folder))

    @classmethod
    def load(cls, folder: Path) -> Relations:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        rows = load_file(_rows(folder))
        names = json.loads((folder / "relations.json").read_text(encoding="utf-8"))
        parts = {
            part: {name.partition(".")[2]: values for name, values in rows.items() if name.startswith(f"{part}.")}
            for part in ("neighbours", "linear")
        }
        return cls(tuple(names), **parts)


def _rows(folder: Path) -> Path:
    return folder / "relations.safetensors"


def _packed(matrix: Any) -> dict[str, npt.NDArray[Any]]:
    """A scipy matrix in compressed rows as plain arrays."""
    return {
        "starts": matrix.indptr.astype(np.int64),
        "places": matrix.indices.astype(np.int32),
        "values": matrix.data.astype(np.float32),
    }


def _largest(weights: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """The rows of a dense matrix with their greatest weights by size."""
    count = min(_WEIGHTS, weights.shape[1])
    places = np.sort(np.argpartition(-np.abs(weights), count - 1, axis=1)[:, :count], axis=1)
    return {
        "starts": np.arange(0, places.size + 1, count, dtype=np.int64),
        "places": places.astype(np.int32).ravel(),
        "values": np.take_along_axis(weights, places, 1).ravel(),
    }
