"""Scores by the values of a column: where a model is weaker than its average says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from heliostat.evaluate.intervals import Groups, Interval, compare
from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 20
"""Rows below which a slice says more about chance than about the model."""

MAX_VALUES = 15
"""Slices shown of one column, the largest first; a number with more values is cut into ranges."""

RANGES = 5
"""Ranges of about equal counts that a number is cut into."""


class Slice(NamedTuple):
    """The scores of each model on the rows where a column has one value."""

    column: str
    value: str
    rows: int
    scores: dict[str, Interval]
    """By model."""


def slices(
    views: Mapping[str, pd.DataFrame],
    column: str,
    metric: Metric,
    name: str,
    count: int,
    together: Groups | None = None,
) -> Iterator[Slice]:
    """The largest slices of `slice_<column>`, numbers in order, the rest by size. Rows without a value are one.

    `together`: a number of each row, equal for those that are drawn together for the intervals.
    """
    first = next(iter(views.values()))
    values = groups(first[f"slice_{column}"])
    sizes = values.value_counts()
    kept = sizes[sizes >= MIN_ROWS].head(MAX_VALUES).index
    in_order = [value for value in values.cat.categories if value in set(kept)] if hasattr(values, "cat") else kept
    for value in in_order:
        rows = (values == value).to_numpy()
        inside = None if together is None else together[rows]
        scored = compare({model: view[rows] for model, view in views.items()}, {name: metric}, count, groups=inside)
        scores = {model: named[name] for model, named in scored.scores.items()}
        yield Slice(column, str(value), int(rows.sum()), scores)


def groups(column: pd.Series) -> pd.Series:
    """The value of each row as text; a number with many values becomes the range it lies in (an ordered category)."""
    import pandas as pd

    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numbers and column.nunique() > MAX_VALUES:
        ranges = pd.qcut(column, RANGES, duplicates="drop", precision=1)
        bounds = [column[ranges == each] for each in ranges.cat.categories]
        return ranges.cat.rename_categories(_spans([(inside.min(), inside.max()) for inside in bounds]))
    named = column.map(_name, na_action="ignore").astype(object).where(column.notna(), "(none)")
    if not numbers:
        return named
    in_order = [_name(value) for value in sorted(column.dropna().unique())]
    return named.astype(pd.CategoricalDtype([*dict.fromkeys(in_order), "(none)"], ordered=True))


def _spans(bounds: Sequence[tuple[float, float]]) -> list[str]:
    """The ranges in as few digits as tell them apart: six, or more where large values lie close."""
    for digits in range(6, 18):
        names = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in bounds]
        if len(set(names)) == len(names):
            break
    return names


def _name(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")
