"""The encoder of tables: numbers with gaps, categories, dates and short texts of a record -> one vector."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import LATER, Row, Settings, no_effect
from heliostat.encoders.tabular_fitted import FittedTable, fit_table
from heliostat.encoders.tabular_rates import fold_of, fold_values
from heliostat.encoders.tabular_terms import (
    CATEGORY,
    DAYS_PER_YEAR,
    NUMBER,
    category_parts,
    fields_of,
    read_category,
    read_day,
    read_number,
    read_words,
)
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, TabularFeatures
from heliostat.plugin import Encoded, Encoder

if TYPE_CHECKING:
    from torch import nn

NumberTerm = Annotated[str, Field(pattern=NUMBER)]
CategoryTerm = Annotated[str, Field(pattern=CATEGORY)]
FieldName = Annotated[str, Field(min_length=1)]

_LARGEST = 1e30
"""Absurd numbers are read as this one: it lies in the last bin, and a float32 holds it."""


class TabularEncoder(Encoder):
    """Numbers, categories, dates and short texts of a record -> one vector an example, whatever is missing."""

    class Config(Settings):
        """Which fields are read as what, and the size of the network."""

        numbers: tuple[NumberTerm, ...] = ()
        """Fields that hold numbers; `a/b` is the one divided by the other."""
        categories: tuple[CategoryTerm, ...] = ()
        """Fields with a learned vector for each value; `a:3` its first 3 characters, `a+b` two as one."""
        dates: tuple[FieldName, ...] = ()
        """Fields that hold days: read as years, month and weekday."""
        texts: tuple[FieldName, ...] = ()
        """Fields whose words are read, in no order."""
        rates: tuple[CategoryTerm, ...] = ()
        """Categories, also of very many values, that are read as how often the target was so in the train split."""
        target: FieldName | None = None
        """The target that `rates` are kept of."""
        dim: Annotated[int, Field(ge=4, le=4096)] = 256
        """Width of the network and of the vector that it gives."""
        layers: Annotated[int, Field(ge=0, le=24)] = 2
        """Residual blocks (Gorishniy et al. 2021)."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.2
        field_dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.05
        """Share of the fields that training takes for missing, so that an answer without them makes sense."""
        bins: Annotated[int, Field(ge=2, le=256)] = 24
        """Quantiles between which a number is read as straight lines (Gorishniy, Rubachev and Babenko 2022)."""
        level_dim: Annotated[int, Field(ge=1, le=512)] = 8
        """Width of the vector of a category's value."""
        min_count: Annotated[int, Field(ge=1)] = 20
        """Train examples that a value of a category needs for a vector of its own; others share one."""
        smoothing: Annotated[float, Field(gt=0.0)] = 30.0
        """Examples at the rate of all that are added to each value's own, for `rates`."""
        trend_years: Annotated[float, Field(ge=0.0, le=20.0)] = 0.0
        """How far beyond the dates of the train split a straight trend in time is followed."""
        word_buckets: Annotated[int, Field(ge=16)] = 8192
        """Vectors that the words of texts share, by their hash."""
        max_words: Annotated[int, Field(ge=1, le=1000)] = 32
        """Words of a text that are read."""

        @model_validator(mode="after")
        def _reads_something(self) -> Self:
            if not (self.numbers or self.categories or self.dates or self.texts or self.rates):
                rule = "names no field: give numbers, categories, dates, texts or rates."
                raise PydanticCustomError("fields", "{sentence}", {"sentence": rule})
            if bool(self.rates) != bool(self.target):
                rule = "rates and target belong together: name the target that the rates are kept of."
                raise PydanticCustomError("fields", "{sentence}", {"sentence": rule})
            if self.trend_years and not self.dates:
                raise no_effect("trend_years", "no dates", "name a date in dates")
            return self

    gives: ClassVar[type[TabularFeatures]] = TabularFeatures
    reads_rows: ClassVar[bool] = True

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self._fitted: FittedTable | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read, each once."""
        settings = self.config
        terms = (*settings.numbers, *settings.categories, *settings.dates, *settings.texts, *settings.rates)
        return tuple(dict.fromkeys(name for term in terms for name in fields_of(term)))

    @property
    def fitted(self) -> FittedTable:
        """What was learned of the columns. Raises DataError before `fit` or `load`."""
        if self._fitted is None:
            raise DataError("this table encoder knows no scales yet: call fit(train examples) or load(folder) first.")
        return self._fitted

    def fit(self, examples: Iterable[Row]) -> None:
        """Learn quantiles, values and rates. Raises DataError for a number or date that is none, or a bad target."""
        self._fitted = fit_table(self.config, self.fields, examples)

    def save(self, folder: Path) -> None:
        """Write `table.json`."""
        (folder / "table.json").write_text(json.dumps(self.fitted.values(), ensure_ascii=False), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        values = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        self._fitted = FittedTable.from_values(values)

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """Columns `numbers` (NaN for a gap), `levels`, `rates`, `words_<k>`. An unseen value is a value, no error.

        Raises DataError for a field that holds something of another kind.
        """
        for example in examples:
            if not any(name in example for name in self.fields):
                there = ", ".join(example) or "nothing"
                raise DataError(f"the encoder reads {', '.join(self.fields)}; an example has only {there}.")
        return [self._encoded(example) for example in examples]

    def _encoded(self, row: Row) -> Encoded:
        settings, fitted = self.config, self.fitted
        days = [read_day(name, row) for name in settings.dates]
        encoded: dict[str, Any] = {}
        numbers = [read_number(term, row) for term in settings.numbers]
        numbers += [(day.toordinal() - fitted.newest[0]) / DAYS_PER_YEAR if day else np.nan for day in days]
        if numbers:
            encoded["numbers"] = np.clip(np.array(numbers), -_LARGEST, _LARGEST).astype(np.float32)
        terms = zip(settings.categories, fitted.levels, strict=False)
        levels = [fitted.place(known, read_category(category_parts(term), row)) for term, known in terms]
        levels += [place for day in days for place in ((day.month, day.isoweekday()) if day else (0, 0))]
        if levels:
            encoded["levels"] = np.array(levels, dtype=np.int32)
        if settings.rates:
            encoded["rates"] = self._rates(row)
        for place, name in enumerate(settings.texts):
            words = read_words(name, row, settings.max_words)
            buckets = [zlib.crc32(word.encode("utf-8", "replace")) % settings.word_buckets for word in words]
            encoded[f"words_{place}"] = np.array(buckets, dtype=np.int32)
        return encoded

    def _rates(self, row: Row) -> npt.NDArray[np.float32]:
        """First what is known of all train examples, then what is known without the example's own fold."""
        fold = fold_of(fold_values(row, self.fields))
        whole: list[float] = []
        others: list[float] = []
        for term, rates in zip(self.config.rates, self.fitted.rates, strict=True):
            first, second = rates.read(read_category(category_parts(term), row), fold)
            whole += first
            others += second
        return np.array([*whole, *others], dtype=np.float32)

    def spec(self) -> FeatureSpec:
        """The width of the vector."""
        return FeatureSpec(self.config.dim)

    def module(self) -> nn.Module:
        """A TabularModule with the scales that were fitted."""
        from heliostat.encoders.tabular_module import TabularModule

        return TabularModule(self.config, self.fields, self.fitted)
