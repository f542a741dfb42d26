"""How a run divides its examples into train, valid and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Settings, closest, no_effect

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Shares(Settings):
    valid: Fraction = 0.1
    """Share of the examples that choices are made on."""
    test: Fraction = 0.1
    """Share of the examples that are reported on, once; 0 makes no report, as for pretraining."""

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        if self.valid + self.test >= 1.0:
            raise PydanticCustomError(
                "split", "valid + test must leave something to train on (their sum is 1 or more)."
            )
        return self


class HashSplit(_Shares):
    """By the hash of a key, so that equal keys never stand on two sides."""

    by: Literal["hash"] = "hash"
    key: tuple[str, ...] | None = None
    """Fields of the example (or else columns of the record) that make the key; an example without any is rejected.
    None: all fields that the head takes."""


class TimeSplit(_Shares):
    """By time: the oldest are trained on, the newest tested on."""

    by: Literal["time"]
    column: str
    """A field of the example, or else a column of the record, that can be put in order: numbers, times (ISO 8601 where
    they are text; of several offsets from UTC, as instants), or texts all of one form, as `2020Q1`."""


class DateSplit(Settings):
    """By dates that are named: what is older than `valid_from` is trained on, what is newer than `test_from` tested."""

    by: Literal["date"]
    column: str
    """A field of the example, or else a column of the record, that can be put in order."""
    valid_from: str | int | float
    """Where the valid split begins, as `2004-04-01` or 2004: written as the column's values are."""
    test_from: str | int | float
    """Where the test split begins; it has no end."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        low, high = self.valid_from, self.test_from
        if isinstance(low, str) != isinstance(high, str) or not low < high:  # type: ignore[operator]
            raise PydanticCustomError("split", "valid_from must be before test_from, and of its kind.")
        return self


class LastSplit(Settings):
    """Per user, the last examples: the newest one is tested on, the one before it is for choices."""

    by: Literal["last"]
    key: str
    """A field of the example, or else a column of the record, that names the user."""
    order: str
    """A field or column by which a user's examples are put in order: as a `column` of `by: time`."""


class ColumnSplit(Settings):
    """By a column that says train, valid or test."""

    by: Literal["column"]
    column: str
    """A field of the example, or else a column of the record, that holds train, valid or test."""


class SequenceSplit(Settings):
    """Within each example, which holds a sequence in order, as one user's items: the end of each is tested on.

    Train gets the beginning of every sequence, valid that beginning with what came next as its targets, and test both
    with what came after them. A sequence that is too short to be cut only trains.
    """

    by: Literal["sequence"]
    field: str = "history"
    """The field of the example that holds the sequence, in order."""
    rest: str = "next"
    """The target field that gets what came next; it is empty for train."""
    last: Annotated[int, Field(ge=1)] | None = None
    """Elements of each sequence that are tested on, and as many before them for choices, whatever its length
    (leave-last-out with 1); None takes the shares `valid` and `test` of each sequence."""
    valid: Fraction | None = None
    """Share of each sequence that choices are made on; None takes 0.1, where `last` is not set."""
    test: Fraction | None = None
    """Share of each sequence that is reported on, its end; None takes 0.1, where `last` is not set."""

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of valid and test."""
        return 0.1 if self.valid is None else self.valid, 0.1 if self.test is None else self.test

    @model_validator(mode="after")
    def _shares_or_a_number(self) -> Self:
        for name in ("valid", "test"):
            if self.last is not None and getattr(self, name) is not None:
                raise no_effect(name, f"last: {self.last}", "leave `last` out")
        if sum(self.shares) >= 1.0:
            raise PydanticCustomError(
                "split", "valid + test must leave something to train on (their sum is 1 or more)."
            )
        return self


_SPLITS: dict[str, type[Settings]] = {
    "hash": HashSplit,
    "time": TimeSplit,
    "date": DateSplit,
    "last": LastSplit,
    "column": ColumnSplit,
    "sequence": SequenceSplit,
}


def _split(data: Any) -> Any:
    if isinstance(data, Settings):
        return data
    by = data.get("by", "hash") if isinstance(data, Mapping) else data
    if not isinstance(data, Mapping) or by not in _SPLITS:
        guess = closest(str(by), list(_SPLITS))
        hint = f" Did you mean '{guess}'?" if guess and guess != by else ""
        text = "takes the form {by: <way>, ...}, where <way> is one of " + f"{', '.join(_SPLITS)}.{hint}"
        raise PydanticCustomError("split", "{sentence}", {"sentence": text})
    return _SPLITS[by].model_validate(data)


SplitSettings = Annotated[
    HashSplit | TimeSplit | DateSplit | LastSplit | ColumnSplit | SequenceSplit,
    WrapValidator(lambda data, _: _split(data)),
]


def protocol(split: Mapping[str, Any]) -> str:
    """How a dumped `data.split` divides the examples, as a phrase for reports."""
    by = split["by"]
    if by == "last":
        return f"leave last out by {split['order']}, for each {split['key']}"
    if by == "date":
        return f"by date ({split['column']}): valid from {split['valid_from']}, test from {split['test_from']}"
    if by == "column":
        return f"as the column {split['column']} says"
    if by == "sequence" and split.get("last"):
        number = "one" if split["last"] == 1 else str(split["last"])
        return f"leave last out: the last {number} of each sequence tested on, the {number} before for choices"
    valid, test = (0.1 if split[name] is None else split[name] for name in ("valid", "test"))
    shares = f"train {1 - valid - test:.0%}, valid {valid:.0%}, test {test:.0%}"
    if by == "sequence":
        return f"each sequence in its own order: {shares}"
    return f"by time ({split['column']}): {shares}" if by == "time" else f"by hash: {shares}"
