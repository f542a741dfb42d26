"""Encoded examples -> a Batch, for requests and for the writing of shards: both pass through the same columns.

Number formats: a ragged int32 column stays int32 on disk and is int64 in a Batch, because torch's losses, `one_hot`
and `gather` take no other index type; a number of an example is int64 or float32 in both places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch, Encoded
from heliostat.errors import DataError

RESERVED = ("id", "length")
"""Names that shards use themselves; an encoded column may not have them."""


class Kind(NamedTuple):
    """What a column holds: numbers of one format, one an example or a varying count."""

    dtype: np.dtype[Any]
    is_ragged: bool

    def __str__(self) -> str:
        return (
            f"an array [n] of {self.dtype}" if self.is_ragged else f"one {'int' if self.dtype.kind == 'i' else 'float'}"
        )


class Flat(NamedTuple):
    """A column of several examples, end to end."""

    values: npt.NDArray[Any]  # [examples], or [values] where the column is ragged
    lengths: npt.NDArray[np.int64] | None = None
    """Values of each example: [examples]; None where each has one number."""


_KINDS = {
    "int": Kind(np.dtype(np.int64), False),
    "float": Kind(np.dtype(np.float32), False),
    "ints": Kind(np.dtype(np.int32), True),
    "floats": Kind(np.dtype(np.float32), True),
}


def _kind(value: object) -> Kind | None:
    """The kind of column that a value belongs to, or None for a value that no column holds."""
    if isinstance(value, np.ndarray):
        name = {"int32": "ints", "float32": "floats"}.get(value.dtype.name) if value.ndim == 1 else None
        return _KINDS[name] if name else None
    if isinstance(value, (int, np.integer)):
        return _KINDS["int"]
    return _KINDS["float"] if isinstance(value, (float, np.floating)) else None


def kinds_of(encoded: Encoded, id: int) -> dict[str, Kind]:
    """The kind of each column, read off one encoded example. Raises DataError for a value that no column holds."""
    found: dict[str, Kind] = {}
    for name, value in encoded.items():
        kind = _kind(value)
        if name in RESERVED:
            raise DataError(f"an encoder or head gives a column '{name}'; shards use that name. Choose another.")
        if kind is None:
            raise DataError(
                f"column '{name}' of example {id} is {_shown(value)}. An encoded value is an int, a float, "
                "or a one-dimensional numpy array of int32 or float32."
            )
        found[name] = kind
    return found


def pack(
    encoded: Sequence[Encoded], ids: Sequence[int] | npt.NDArray[np.uint64], kinds: Mapping[str, Kind]
) -> dict[str, Flat]:
    """The columns of several encoded examples, end to end.

    Raises DataError naming the column and the example when one does not have these kinds.
    """
    for example, id in zip(encoded, ids, strict=True):
        if example.keys() != kinds.keys():
            raise DataError(
                f"example {id} is encoded to the columns {', '.join(example) or 'none'}, "
                f"and the first one to {', '.join(kinds) or 'none'}. All examples have the same columns."
            )
    return {name: _column(name, kind, [example[name] for example in encoded], ids) for name, kind in kinds.items()}


def _column(name: str, kind: Kind, values: list[Any], ids: Sequence[int] | npt.NDArray[np.uint64]) -> Flat:
    for value, id in zip(values, ids, strict=True):
        if _kind(value) != kind:
            raise DataError(f"column '{name}' of example {id} is {_shown(value)}; here it is {kind}.")
    if not kind.is_ragged:
        try:
            return Flat(np.array(values, dtype=kind.dtype))
        except OverflowError:
            raise DataError(f"column '{name}': a number is outside the range of {kind.dtype}.") from None
    flat = np.concatenate(values) if values else np.zeros(0, kind.dtype)
    return Flat(flat, np.fromiter(map(len, values), np.int64, len(values)))


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    return f"of type {type(value).__name__}"


def num_tokens(columns: Mapping[str, Flat], num_examples: int) -> npt.NDArray[np.int32]:
    """What each example costs: the values of its ragged columns added up, and 1 at least: [examples]."""
    total = np.zeros(num_examples, np.int64)
    for column in columns.values():
        if column.lengths is not None:
            total += column.lengths
    return np.clip(total, 1, np.iinfo(np.int32).max).astype(np.int32)


def to_batch(ids: npt.NDArray[np.uint64], columns: Mapping[str, Flat]) -> Batch:
    """A Batch around these columns; their memory is taken over where the format stays."""
    import torch

    from heliostat.batch import Ragged

    tensors: dict[str, Any] = {}
    for name, (values, lengths) in columns.items():
        tensor = torch.from_numpy(values if values.dtype.kind == "f" else values.astype(np.int64, copy=False))
        if lengths is None:
            tensors[name] = tensor
        else:
            offsets = np.zeros(len(lengths) + 1, np.int32)
            np.cumsum(lengths, out=offsets[1:])
            tensors[name] = Ragged(tensor, torch.from_numpy(offsets), tuple(lengths.tolist()))
    return Batch(ids, tensors)


def collate(encoded: Sequence[Encoded], ids: npt.NDArray[np.uint64]) -> Batch:
    """One Batch of encoded examples, equal to the one that shards of the same examples give.

    Raises DataError when the examples do not all have the same columns.
    """
    kinds = kinds_of(encoded[0], int(ids[0])) if len(encoded) else {}
    return to_batch(ids, pack(encoded, ids, kinds))
