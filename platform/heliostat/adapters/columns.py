"""The adapter for data whose columns need only be named."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ConfigDict

from heliostat.component import Row, Settings
from heliostat.plugin import DataAdapter


class Columns(DataAdapter):
    """Each field of the example is a column of the source: `{type: core.columns, text: review_body, label: stars}`.

    A class may be a number or a truth: it goes by its text, as `5` or `true`.
    """

    class Config(Settings):
        """Each key is a field of the example, its value the column that fills it. None: the record is the example."""

        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, str]

    def columns(self) -> dict[str, str]:
        """Field of the example -> column of the source."""
        return dict(self.config.model_extra or {})

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a record."""
        fields = self.columns()
        for row in rows:
            yield {field: row[column] for field, column in fields.items()} if fields else dict(row)
