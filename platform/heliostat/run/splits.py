"""How a run divides its examples into train, valid and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Settings, closest

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
    """Fields of the example (or else columns of the record) that make the key. None: all fields that the head takes."""


class TimeSplit(_Shares):
    """By time: the oldest are trained on, the newest tested on."""

    by: Literal["time"]
    column: str
    """A field of the example, or else a column of the record, that can be put in order."""


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
    """A field or column by which a user's examples are put in order."""


class ColumnSplit(Settings):
    """By a column that says train, valid or test."""

    by: Literal["column"]
    column: str
    """A field of the example, or else a column of the record, that holds train, valid or test."""


_SPLITS: dict[str, type[Settings]] = {
    "hash": HashSplit, "time": TimeSplit, "date": DateSplit, "last": LastSplit, "column": ColumnSplit
}  # fmt: skip


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
    HashSplit | TimeSplit | DateSplit | LastSplit | ColumnSplit, WrapValidator(lambda data, _: _split(data))
]
