"""A table of events (who, what, when) -> the history of each user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from heliostat.component import Column, Row, Settings
from heliostat.errors import RejectedRecord
from heliostat.plugin import DataAdapter


class Histories(DataAdapter):
    """One row an event, in any order -> one history a user: the items in the order of time."""

    class Config(Settings):
        """Names of the columns, and what becomes of repeated items."""

        user: Column = "user"
        item: Column = "item"
        time: Column | None = "time"
        """Numbers, or ISO 8601. Events of one time stay in the order of the source; None takes that order for all."""
        repeats: Literal["first", "all"] = "first"
        """Whether an item stands in a history once, where it came first, or each time."""
        shortest: Annotated[int, Field(ge=1)] = 1
        """Fewest items of a history; a shorter one is left out."""

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.group_by = self.config.user
        self.order_by = self.config.time

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The history of one user, with the user's name. Rejects one without an item."""
        names = self.config
        items, user = [], None
        for row in rows:
            user = row[names.user]
            if row[names.item] is not None:
                items.append(str(row[names.item]))
        if not items:
            raise RejectedRecord(f"{names.item}: is missing")
        history = list(dict.fromkeys(items)) if names.repeats == "first" else items
        if user is not None and len(history) >= names.shortest:
            yield {"user": str(user), "history": history, "next": []}
