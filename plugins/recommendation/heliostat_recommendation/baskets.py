"""Baskets: what a customer bought in, what follows out, each product with those it was bought together with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from heliostat.plugin import Demo, Ranking, Row


class BasketDemo(Demo):
    """The page of a model of baskets."""

    title: ClassVar[str] = "What goes into the basket next?"
    description: ClassVar[str] = (
        "Pick products in the order in which they were bought. The model has read what the customers of a British "
        "wholesaler of gifts bought in 2010 and 2011; each answer names the picked products that went with it most."
    )

    def bars(self, answer: Row) -> Mapping[str, float]:
        """The share of each product, by its description."""
        names = [text or item for item, text in zip(answer["items"], answer["texts"], strict=True)]
        return dict(zip(names, answer["scores"], strict=True))


class Baskets(Ranking):
    """Products that follow a customer's purchases."""

    demo: ClassVar[type[Demo] | None] = BasketDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {"history": ["20725", "20727", "22383"]},
        {"history": ["22423", "22699"]},
        {"history": ["85123A", "22470", "a product that nobody sold"]},
        {"history": []},
    )
