"""Baskets: what a customer bought in, what follows out, each product with those it was bought together with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from heliostat.plugin import Demo, Ranking, Row

_SHOWN = ("items", "scores", "texts", "because")


@cache
def descriptions() -> dict[str, str]:
    """Product -> its description, of all that the shop sold."""
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(__file__).with_name("data") / "items.parquet").to_pylist()
    return {row["item"]: row["text"] for row in rows}


class BasketDemo(Demo):
    """The page of a model of baskets."""

    title: ClassVar[str] = "What goes into the basket next?"
    description: ClassVar[str] = (
        "Pick products in the order in which they were bought. The model has read what the customers of a British "
        "wholesaler of gifts bought in 2010 and 2011; each answer names the picked products that went with it most."
    )

    def choices(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """The products that can be picked, by their descriptions."""
        return {"history": sorted((f"{text} ({item})", item) for item, text in descriptions().items())}

    def bars(self, answer: Row) -> Mapping[str, float]:
        """The share of each product, by its description and what it was bought together with."""
        shown, told = {}, descriptions()
        for item, score, text, because in zip(*(answer[name] for name in _SHOWN), strict=True):
            with_what = ", ".join(told.get(other, other) for other in because)
            shown[f"{text or item}" + (f", bought together with {with_what}" if because else "")] = score
        return shown


class Baskets(Ranking):
    """Products that follow a customer's purchases."""

    demo: ClassVar[type[Demo] | None] = BasketDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {"history": ["20725", "20727", "22383"]},
        {"history": ["22423", "22699"]},
        {"history": ["85123A", "22470", "a product that nobody sold"]},
        {"history": []},
    )
