"""What a domain takes and gives, as typed fields, and what it says of the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from heliostat.component import Component, Row


class Record(BaseModel):
    """The typed fields that a head takes or gives. Subclass it with one annotated field each.

    From this one declaration come the check on data, the request and response schema, the demo's form and the
    model card.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_max_length=100_000)


class Demo(Component):
    """What a domain may say about its page; the page itself is generated from the head's records."""

    kind: ClassVar[str] = "demo"

    title: ClassVar[str] = ""
    description: ClassVar[str] = ""
    moved_by: ClassVar[str] = ""
    """A text field whose words are left out one at a time, so that those that moved the answer are marked."""

    def bars(self, answer: Row) -> Mapping[str, float]:
        """The answer as labelled bars, 0 to 1. By default its `probabilities`."""
        return dict(answer.get("probabilities", {}))

    def choices(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """For fields that are lists of texts: what may be picked, as (what is shown, what is sent). By default none."""
        return {}

    def details(self, answer: Row) -> Row:
        """Fields of the answer to show beside the bars. By default all but the class and the probabilities."""
        return {key: value for key, value in answer.items() if key not in {"probabilities", "label"}}

    def marks(self, record: Row, answer: Row) -> Sequence[tuple[str, str | None]]:
        """Parts of a text, in order, each with the class by which it is coloured; by default none."""
        return ()

    def picture(self, answer: Row) -> str:
        """A drawing of the answer as HTML or SVG without scripts, shown above the bars; escape what comes from data."""
        return ""

    def called(self, sample: Row) -> str:
        """What a sample of the head is called on the page; by default its values."""
        return ""
