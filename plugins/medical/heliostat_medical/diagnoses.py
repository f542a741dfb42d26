"""Diagnoses: what a record calls an illness in, its place in the ICD-10-CM out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from heliostat.plugin import Column, DataAdapter, Demo, Field, Hierarchy, Record, RejectedRecord, Row, Settings
from heliostat_medical.drawing import draw_path
from heliostat_medical.notice import NOTICE


class Diagnoses(DataAdapter):
    """A text and its place in the code set -> `text` and `path`, with the `category` that splits keep together."""

    class Config(Settings):
        """Names of the columns."""

        text: Column = "text"
        chapter: Column = "chapter"
        section: Column = "section"
        category: Column = "category"
        with_category: bool = False
        """Whether the path goes down to the category. Then the split may not keep categories together: use
        data.split.key=[text], and mind that siblings are much alike."""

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a diagnosis. Rejects one without a text or a place."""
        names = self.config
        for row in rows:
            text = " ".join(str(row[names.text] or "").split())
            path = [row[names.chapter], row[names.section], row[names.category]]
            if not text or None in path:
                raise RejectedRecord(f"{names.text if not text else 'its place in the code set'}: is missing")
            yield {"text": text, "path": path if names.with_category else path[:2], "category": path[2]}


class Diagnosis(Record):
    """A diagnosis in words."""

    text: str = Field(
        min_length=1, max_length=2_000, pattern=r"\S", description="A diagnosis in English, as a record states it."
    )


class ChaptersDemo(Demo):
    """The page of a model of chapters."""

    title: ClassVar[str] = "Where in the ICD-10-CM does this diagnosis stand?"
    description: ClassVar[str] = (
        "A chapter and a section below it. Words on a coloured ground moved the answer: without them the chapter is "
        "less probable (red) or more (violet). The model has read the titles of the code set and no patient's record."
    )
    moved_by: ClassVar[str] = "text"

    def bars(self, answer: Row) -> Mapping[str, float]:
        """The most probable chapters."""
        return dict(answer["choices"][0])

    def details(self, answer: Row) -> Row:
        """None: the picture says it."""
        return {}

    def picture(self, answer: Row) -> str:
        """The chapter with the section below it, and the sections that come next, wherever they lie."""
        return draw_path(answer["path"], answer["choices"])


class Chapters(Hierarchy):
    """A chapter of the ICD-10-CM and a section below it."""

    class Config(Hierarchy.Config):
        """Settings of the head."""

        levels: tuple[str, ...] = ("chapter", "section")

    takes: ClassVar[type[Record]] = Diagnosis
    notice: ClassVar[str] = NOTICE
    private: ClassVar[bool] = True
    demo: ClassVar[type[Demo] | None] = ChaptersDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "Acute bronchitis after influenza"},
        {"text": "Greenstick fracture of the left radius, healing as expected"},
        {"text": "Iron deficiency anemia due to heavy periods"},
        {"text": "Sudden loss of hearing in the right ear"},
        {"text": "Burn of the hand by hot oil"},
        {"text": "Gestational diabetes, controlled by diet"},
    )
