"""Baskets: what a customer bought in, what follows out, each product with those it was bought together with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from heliostat.plugin import Demo, Ranking, Row
from heliostat_recommendation.drawing import draw_products

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
        """None: the list says it."""
        return {}

    def picture(self, answer: Row) -> str:
        """The products by their descriptions, with their shares and what they were bought together with."""
        told = descriptions()
        found = zip(*(answer[name] for name in _SHOWN), strict=True)
        return draw_products(
            [
                (text or told.get(item, item), share, [told.get(each, each) for each in why])
                for item, share, text, why in found
            ]
        )

    def called(self, sample: Row) -> str:
        """The first product and how many more there are."""
        names = [descriptions().get(item, item) for item in sample["history"]]
        if not names:
            return "nothing was bought yet"
        return str(names[0]) + (f" and {len(names) - 1} more" if names[1:] else "")


class Baskets(Ranking):
    """Products that follow a customer's purchases."""

    demo: ClassVar[type[Demo] | None] = BasketDemo
    searched: ClassVar[Mapping[str, Any]] = {**Ranking.searched, "encoder.dropout": "quniform(0,0.5,0.1)"}
    samples: ClassVar[tuple[Row, ...]] = (
        {"history": ["20725", "20727", "22383"]},
        {"history": ["22423", "22699"]},
        {"history": ["85123A", "22470", "a product that nobody sold"]},
        {"history": []},
    )
