"""The head: `core.classification` over products, which names the pages that may help, too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from heliostat.plugin import Classification, Demo, Encoded, FeatureSpec, Field, Record, Row, Settings
from heliostat_helpdesk.memory import Memory

if TYPE_CHECKING:
    from torch import nn


class Question(Record):
    """What somebody asks a help desk."""

    text: str = Field(min_length=1, max_length=5_000, pattern=r"\S", description="A question, or a paragraph of help.")


class Page(Record):
    """A help page, by the paragraph of it that is most like the question."""

    title: str = Field(description="What the page is called.")
    page: str = Field(description="Where it stands.")
    product: str = Field(description="The product that it is about.")
    text: str = Field(description="The paragraph.")


class Answer(Record):
    """The product that a question is about, and where to read on."""

    label: str = Field(description="The most probable product.")
    probabilities: dict[str, float] = Field(description="The probability of each product; they add up to 1.")
    pages: list[Page] = Field(description="Pages of the train split that share most words with the text.")


class ProductDemo(Demo):
    """The page of a help desk."""

    title: ClassVar[str] = "Which program is this question about?"
    description: ClassVar[str] = (
        "The model has read the help of an office suite. Beside its answer stand the pages that share most words with "
        "the question, and in the question the words that moved the answer."
    )
    moved_by: ClassVar[str] = "text"

    def details(self, answer: Row) -> Row:
        """None: the picture shows the pages."""
        return {}

    def picture(self, answer: Row) -> str:
        """The pages to read on, a card each."""
        cards = "".join(map(_card, answer["pages"]))
        return f'<div style="padding:0 0 6px 2px">Where to read on</div>{cards}' if cards else ""


def _card(page: Row) -> str:
    title, product, text = (escape(page[key]) for key in ("title", "product", "text"))
    return (
        '<div style="background:#fff;color:#1d2733;border-radius:8px;padding:10px 14px;margin-bottom:8px">'
        f'<b>{title}</b> <span style="color:#66727f">{product}</span><div>{text}</div></div>'
    )


class Product(Classification):
    """One logit a product, over the pooled text. The products are those of the train split."""

    class Config(Classification.Config):
        """Settings of the head."""

        pages: Annotated[int, Field(ge=0, le=20)] = 3
        """Pages that an answer names. 0 keeps no text of the train split with the model."""

    takes: ClassVar[type[Record]] = Question
    gives: ClassVar[type[Record]] = Answer
    demo: ClassVar[type[Demo] | None] = ProductDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "How do I merge two cells?"},
        {"text": "Print several slides on one page, with room for notes."},
        {"text": "The page numbers should begin after the table of contents."},
        {"text": "My macro stops with 'object variable not set'. What is wrong?"},
        {"text": "How do I write a fraction below a square root?"},
        {"text": "Give the second axis of the diagram a scale of its own."},
    )

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.memory = Memory([])

    def fit(self, examples: Iterable[Row]) -> None:
        """Collect the products, and remember the paragraphs of the train split."""
        examples = list(examples)
        super().fit(examples)
        if self.config.pages:
            known = [
                {"product": row["label"], **{key: row[key] for key in ("title", "page", "text")}} for row in examples
            ]
            self.memory = Memory(known)

    def save(self, folder: Path) -> None:
        """Write what was fitted; the paragraphs go to `pages.json`."""
        super().save(folder)
        (folder / "pages.json").write_text(json.dumps(self.memory.rows, ensure_ascii=False), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        super().load(folder)
        self.memory = Memory(json.loads((folder / "pages.json").read_text(encoding="utf-8")))

    def read(self, examples: Sequence[Row]) -> list[Encoded]:
        """The places of the nearest paragraphs, a number each: `page_0` and so on."""
        places = self.memory.nearest([str(example["text"]) for example in examples], self.config.pages)
        named = [dict(zip(self._columns(), row, strict=True)) for row in places]
        return [{**own, **pages} for own, pages in zip(super().read(examples), named, strict=True)]

    def module(self, spec: FeatureSpec) -> nn.Module:
        """The classification, and the pages beside its answers."""
        from heliostat_helpdesk.module import WithPages

        return WithPages(super().module(spec), self.memory.rows, self._columns())

    def _columns(self) -> list[str]:
        return [f"page_{number}" for number in range(self.config.pages)]
