"""Which examples are trained on, chosen on and tested on. Pure functions over keys; never by position in the file."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heliostat.component import Row, closest
from heliostat.data.moments import comparable
from heliostat.errors import DataError, RejectedRecord
from heliostat.plugin import DataAdapter, TaskHead
from heliostat.registry import find
from heliostat.run import ColumnSplit, DateSplit, HashSplit, LastSplit, Run, SequenceSplit, SplitSettings, TimeSplit

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

_ALIASES = {
    "training": "train", "validation": "valid", "val": "valid", "dev": "valid", "development": "valid",
    "eval": "valid", "holdout": "test", "testing": "test",
}  # fmt: skip
"""Other names of the splits, which are refused with the right one: a silent guess could train on test data."""


def normalised(text: str) -> str:
    """Text without differences of case, width and space (Unicode NFKC, case folded)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key_of(split: SplitSettings, values: Row, takes: Sequence[str]) -> Any:
    """What the split of one example depends on. `values` are the example's fields and what it carries.

    Hash: a number in [0, 1). Time and date: a value that can be put in order. Last: (user, order). Column: the split.
    Raises RejectedRecord when the value is missing, DataError when a column says something else than a split.
    """
    if isinstance(split, HashSplit):
        parts = [values.get(name) for name in split.key or takes]
        if split.key and all(part is None for part in parts):  # all without a key would stand on one side
            raise RejectedRecord(f"{', '.join(split.key)}: is missing, and data.split needs it")
        return unit(parts)
    if isinstance(split, (TimeSplit, DateSplit)):
        return _present(values, split.column)
    if isinstance(split, SequenceSplit):
        raise TypeError("a sequence split cuts examples: take parts_of")
    if isinstance(split, LastSplit):
        return (json.dumps(_present(values, split.key)), _present(values, split.order))
    return _named(split, _present(values, split.column))


def key_fields(run: Run, examples: Sequence[Row]) -> tuple[str, ...]:
    """The fields whose equal values the split keeps on one side; empty where it names none, or they are not here."""
    split = run.data.split
    if not isinstance(split, HashSplit):
        return ()
    named = split.key or find(run.data.adapter.type, DataAdapter).split_by  # type: ignore[type-abstract]
    return tuple(named) if all(name in row for row in examples for name in named) else ()


def groups_of(run: Run, examples: Sequence[Row]) -> list[float] | None:
    """A number of each example, equal for those that the split keeps together; None where it goes by no key."""
    takes = tuple(find(run.head.type, TaskHead).takes.model_fields)  # type: ignore[type-abstract]
    fields = key_fields(run, examples) or takes
    is_hashed = isinstance(run.data.split, HashSplit)
    return [unit([row.get(name) for name in fields]) for row in examples] if is_hashed else None


def parts_of(split: SequenceSplit, values: Row) -> Iterator[tuple[Split, Row]]:
    """The example of each split that one sequence is cut into; a short one gives none for valid or test.

    Raises DataError when the field holds no list.
    """
    sequence = values.get(split.field)
    if not isinstance(sequence, list):
        kind = "nothing" if sequence is None else f"a {type(sequence).__name__}"
        raise DataError(f"data.split.field: '{split.field}' must hold a list in order; the examples have {kind} there.")
    first, second = _cuts(split, len(sequence))
    ends = {"train": (0, first), "valid": (first, second), "test": (second, len(sequence))}
    for name in SPLITS:
        start, end = ends[name]
        if name == "train":
            yield name, {**values, split.field: sequence[:end], split.rest: []}
        elif start < end:
            yield name, {**values, split.field: sequence[:start], split.rest: sequence[start:end]}


def _cuts(split: SequenceSplit, length: int) -> tuple[int, int]:
    """Where valid and test begin in a sequence of this length. The first element is always trained on."""
    if split.last is not None:
        return (length - 2 * split.last, length - split.last) if length > 2 * split.last else (length, length)
    valid, test = split.shares
    second = max(1, math.floor(length * (1.0 - test) + 1e-9))  # as much is tested on as the share says, or more
    return max(1, min(second, math.floor(length * (1.0 - test - valid) + 1e-9))), second


def unit(key: Sequence[Any]) -> float:
    """A number in [0, 1) that depends on nothing but the key; texts count by their normalised form."""
    parts = [normalised(part) if isinstance(part, str) else part for part in key]
    digest = hashlib.blake2b(
        json.dumps(parts, ensure_ascii=False, sort_keys=True).encode(), digest_size=8, person=b"split"
    )
    return (int.from_bytes(digest.digest(), "little") >> 11) * 2.0**-53


def assign(split: SplitSettings, keys: Sequence[Any]) -> npt.NDArray[np.int8]:
    """The split of each example as an index into SPLITS: [examples]. Raises DataError when one comes out empty."""
    if isinstance(split, HashSplit):
        units = np.asarray(keys, dtype=np.float64)
        sides = np.where(units < split.valid, 1, np.where(units < split.valid + split.test, 2, 0))
    elif isinstance(split, TimeSplit):
        sides = _by_time(split, keys)
    elif isinstance(split, DateSplit):
        sides = _by_date(split, keys)
    elif isinstance(split, LastSplit):
        sides = _last(split, keys)
    else:
        sides = np.array([SPLITS.index(name) for name in keys])
    sides = sides.astype(np.int8)
    _refuse_empty(split, sides)
    return sides


def _present(values: Row, name: str) -> Any:
    value = values.get(name)
    if value is None:
        raise RejectedRecord(f"{name}: is missing, and data.split needs it")
    return value


def _named(split: ColumnSplit, value: Any) -> Split:
    if value in SPLITS:
        return value  # type: ignore[no-any-return]
    low = str(value).strip().lower()
    meant = _ALIASES.get(low) or closest(low, list(SPLITS))
    hint = f" Did you mean '{meant}'? Write it so in the source." if meant else ""
    raise DataError(f"data.split.column: '{split.column}' holds {value!r}, and a split is train, valid or test.{hint}")


def _by_time(split: TimeSplit, keys: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Quantiles of time; examples of one time stay together, on the newer side."""
    what = f"data.split.column: '{split.column}'"
    keys = comparable(keys, what)
    ordered = _sorted(keys, what)
    cuts = [round(len(keys) * share) for share in (1.0 - split.valid - split.test, 1.0 - split.test)]
    first_valid, first_test = (ordered[cut] if cut < len(keys) else None for cut in cuts)
    # A cut past the end bounds nothing: then no key is that new.
    return np.array([sum(first is not None and key >= first for first in (first_valid, first_test)) for key in keys])


def _by_date(split: DateSplit, keys: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Which side of two named dates. They are compared as written, so 2004-10-01T08:00 is after 2004-10-01.

    Texts that do not sort as they are meant are refused; of times with an offset, the day is that of the place.
    """
    comparable(keys, f"data.split.column: '{split.column}'", are_times=False)
    comparable([split.valid_from, split.test_from], "data.split", are_times=False)
    try:
        return np.array([int(key >= split.valid_from) + int(key >= split.test_from) for key in keys])
    except TypeError:
        kinds = ", ".join(sorted({type(key).__name__ for key in keys}))
        what = (
            f"data.split.column: '{split.column}' holds values of another kind ({kinds}) than valid_from and test_from"
        )
        raise DataError(f"{what} ({type(split.valid_from).__name__}). Write these as the column does.") from None


def _last(split: LastSplit, keys: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Per user the newest is tested on, the one before it chosen on; a user with fewer than three only trains."""
    what = f"data.split.order: '{split.order}'"
    orders = comparable([order for _, order in keys], what)
    users: dict[str, list[int]] = {}
    for index, (user, _) in enumerate(keys):
        users.setdefault(user, []).append(index)
    sides = np.zeros(len(keys), dtype=np.int64)
    for rows in users.values():
        if len(rows) >= 3:
            _sorted([orders[row] for row in rows], what)
            rows.sort(key=orders.__getitem__)
            sides[rows[-1]], sides[rows[-2]] = 2, 1
    return sides


def _sorted(values: Sequence[Any], what: str) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise DataError(f"{what} holds values that cannot be put in order ({kinds}). Make them of one kind.") from None


_MEND = {
    "hash": "Raise data.split.valid and data.split.test, give more examples, or take a finer data.split.key.",
    "time": "Raise data.split.valid and data.split.test, or choose a data.split.column with more moments.",
    "date": "Move data.split.valid_from and data.split.test_from into the time that the examples span.",
    "last": "Users need three examples or more; check data.split.key, or take data.split.by=hash.",
    "sequence": "Give longer sequences, or raise data.split.valid and data.split.test.",
    "column": "Mark some examples with that split in the source, or take data.split.by=hash.",
}


def _refuse_empty(split: SplitSettings, sides: npt.NDArray[np.int8]) -> None:
    found = Counter(SPLITS[side] for side in sides.tolist())
    unwanted = ["test"] if getattr(split, "test", None) == 0.0 else []  # as in pretraining, which reports no score
    empty = [name for name in SPLITS if not found[name] and name not in unwanted]
    if empty:
        counts = ", ".join(f"{name} {found[name]}" for name in SPLITS)
        raise DataError(f"data.split: no example falls into {' and '.join(empty)} ({counts}). {_MEND[split.by]}")
