"""A column that the run names and the source lacks: which columns there are and which one was probably meant."""

from __future__ import annotations

from collections.abc import Mapping

from heliostat.component import closest
from heliostat.errors import DataError
from heliostat.plugin import DataAdapter

_ALIKE = (
    {
        "text",
        "review",
        "review_text",
        "review_body",
        "body",
        "content",
        "sentence",
        "comment",
        "message",
        "document",
        "tweet",
    },
    {"label", "class", "category", "target", "sentiment", "polarity", "y"},
    {"rating", "stars", "star_rating", "score", "grade"},
    {"user", "user_id", "customer", "customer_id", "account", "member"},
    {"item", "item_id", "product", "product_id", "sku", "article"},
    {"time", "timestamp", "date", "datetime", "created_at", "day"},
    {"source", "src", "from"},
    {"title", "headline", "subject", "summary"},
)
"""Names under which data sets keep the same thing."""


class AbsentColumn(KeyError):
    """A raw record was asked for a column that the source does not have."""

    @property
    def column(self) -> str:
        """The name that was asked for."""
        return str(self.args[0])


def guess_column(wanted: str, columns: Mapping[str, str]) -> str | None:
    """The column that was probably meant by `wanted`: alike in letters, or else in meaning; None when none is near."""
    plain = {name.lower().replace(" ", "_").replace("-", "_"): name for name in columns}
    low = wanted.lower().replace(" ", "_").replace("-", "_")
    if low in plain:
        return plain[low]
    alike = next((names for names in _ALIKE if low in names), set())
    for name in plain:
        if name in alike:
            return plain[name]
    near = closest(low, list(plain))
    if near:
        return plain[near]
    return next((plain[name] for name in plain if alike & set(name.split("_"))), None)


def missing(absent: Mapping[str, str], columns: Mapping[str, str], adapter: DataAdapter) -> DataError:
    """The error for columns that are not there.

    `absent` maps the setting that names a column (empty where the adapter's code does) to the column.
    """
    lines = []
    named = {column: f"data.adapter.{setting}" for setting, column in adapter.columns().items()}
    for setting, column in absent.items():
        setting = setting or named.get(column, "")
        guess = guess_column(column, columns)
        hint = f" Did you mean '{guess}'?" if guess else ""
        if setting:
            way_out = (
                f" Set {setting}={guess or '<column>'}." if setting != "evaluate.slices" else " Set evaluate.slices."
            )
        else:
            way_out = f" {type(adapter).__name__} reads it by this name: rename the column, or make the name a setting."
        lines.append(f"{setting + ': ' if setting else ''}the source has no column '{column}'.{hint}{way_out}")
    there = ", ".join(columns)
    return DataError("\n".join([*lines, f"Its columns: {there}."]))


def check_columns(adapter: DataAdapter, columns: Mapping[str, str]) -> None:
    """Raise DataError when the adapter's settings or its grouping name columns that the source lacks."""
    absent = {f"data.adapter.{key}": column for key, column in adapter.columns().items() if column not in columns}
    for name in (adapter.group_by, adapter.order_by):
        if name is not None and name not in columns:
            absent.setdefault("", name)
    if absent:
        raise missing(absent, columns, adapter)
