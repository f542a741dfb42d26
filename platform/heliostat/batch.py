"""Batches without padding: the values of all examples end to end, with their boundaries.

Importing this module imports no torch; its classes hold tensors that others made.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Encoded = Mapping[str, "int | float | npt.NDArray[np.int32] | npt.NDArray[np.float32]"]
"""One encoded example: a number is one value an example, an array is a ragged column (int32 or float32)."""


@dataclass(frozen=True)
class Ragged:
    """A column with a different count of values in each example."""

    values: Tensor  # [tokens]
    offsets: Tensor  # [examples + 1], int32, where each example starts; the last one is `tokens`
    lengths: tuple[int, ...]
    """Values per example, on the host, so that splitting needs no synchronisation."""

    @classmethod
    def of(cls, pieces: Sequence[Tensor]) -> Ragged:
        """A column of the values of each example; at least one example, all of one dtype and device."""
        import torch

        lengths = tuple(len(piece) for piece in pieces)
        offsets = torch.tensor((0, *itertools.accumulate(lengths)), dtype=torch.int32, device=pieces[0].device)
        return cls(torch.cat(list(pieces)), offsets, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def split(self) -> tuple[Tensor, ...]:
        """The values of each example."""
        pieces: tuple[Tensor, ...] = self.values.split(list(self.lengths))  # type: ignore[no-untyped-call]
        return pieces

    def stacked(self) -> Tensor:
        """[examples, length], for a column whose examples all have the same length."""
        return self.values.view(len(self.lengths), -1)

    def with_values(self, values: Tensor) -> Ragged:
        """The same boundaries around other values of the same count."""
        return replace(self, values=values)

    def to(self, device: torch.device | str) -> Ragged:
        """The same column on another device."""
        return replace(self, values=self.values.to(device), offsets=self.offsets.to(device))


@dataclass(frozen=True)
class Batch:
    """Examples that go through a model together."""

    ids: npt.NDArray[np.uint64]  # [examples]
    """The stable identity of each example; random draws are keyed by it."""
    columns: Mapping[str, Tensor | Ragged] = field(default_factory=dict)
    partners: Batch | None = None
    """An example drawn for each one from the same split, for a head that asks for them (`TaskHead.draws_partners`)."""

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def dense(self, name: str) -> Tensor:
        """A column with one value an example: [examples]."""
        column = self.columns[name]
        if isinstance(column, Ragged):
            raise TypeError(f"column '{name}' is ragged: take batch.ragged('{name}')")
        return column

    def ragged(self, name: str) -> Ragged:
        """A column with a varying count of values an example."""
        column = self.columns[name]
        if not isinstance(column, Ragged):
            raise TypeError(f"column '{name}' has one value an example: take batch.dense('{name}')")
        return column

    def with_columns(self, **columns: Tensor | Ragged) -> Batch:
        """The same examples with columns added or replaced."""
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, columns={name: column.to(device) for name, column in self.columns.items()})


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): 64 well-mixed bits for each input."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """Random numbers that are a pure function of (seed, epoch, example id, stream, place).

    So what is drawn for an example does not depend on its batch, its worker or a restart.
    """

    seed: int
    epoch: int
    is_training: bool = True
    """Whether the batch is trained on; what only makes learning harder (noise) is not drawn for a validation."""

    def uniform(self, batch: Batch, stream: int = 0) -> npt.NDArray[np.float64]:
        """One number in [0, 1) for each example: [examples]."""
        return self._unit(self._keys(batch, stream))

    def uniform_like(self, batch: Batch, column: str, stream: int = 0) -> npt.NDArray[np.float64]:
        """One number in [0, 1) for each value of a ragged column: [tokens]."""
        lengths = np.asarray(batch.ragged(column).lengths, dtype=np.int64)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = (np.arange(int(lengths.sum())) - starts).astype(np.uint64)
        with np.errstate(over="ignore"):
            return self._unit(_mix(np.repeat(self._keys(batch, stream), lengths) + _GOLDEN * (places + np.uint64(1))))

    def _keys(self, batch: Batch, stream: int) -> npt.NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            salt = _mix(np.array([self.seed, self.epoch, stream], dtype=np.uint64) + _GOLDEN)
            return _mix(_mix(_mix(batch.ids + salt[0]) + salt[1]) + salt[2])

    @staticmethod
    def _unit(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
