"""Roles: the sentences of an abstract in, what each is for out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from heliostat.plugin import Demo, Field, Record, Row, SegmentLabels
from heliostat_medical.notice import NOTICE
from heliostat_medical.pubmed import ROLES

Sentence = Annotated[str, Field(min_length=1, max_length=5_000, pattern=r"\S")]


class Abstract(Record):
    """An abstract, cut into sentences."""

    texts: list[Sentence] = Field(
        min_length=1, max_length=100, description="The sentences of one abstract, in their order."
    )


class RolesDemo(Demo):
    """The page of a model of roles."""

    title: ClassVar[str] = "What is each sentence of this abstract for?"
    description: ClassVar[str] = (
        "Each sentence is read in the light of the others and given one of five roles: background, objective, methods, "
        "results or conclusions. The model has read abstracts of PubMed whose authors named their sections."
    )

    def bars(self, answer: Row) -> Mapping[str, float]:
        """How much of the abstract each role takes."""
        labels = answer["labels"]
        return {role: labels.count(role) / len(labels) for role in ROLES if role in labels}

    def details(self, answer: Row) -> Row:
        """Nothing: the colours say it."""
        return {}

    def marks(self, record: Row, answer: Row) -> Sequence[tuple[str, str | None]]:
        """Each sentence in the colour of its role."""
        return list(zip([f"{text} " for text in record["texts"]], answer["labels"], strict=True))


class Roles(SegmentLabels):
    """One role for each sentence of an abstract."""

    class Config(SegmentLabels.Config):
        """Settings of the head."""

        labels: tuple[str, ...] | None = ROLES

    takes: ClassVar[type[Record]] = Abstract
    notice: ClassVar[str] = NOTICE
    private: ClassVar[bool] = True
    demo: ClassVar[type[Demo] | None] = RolesDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {
            "texts": [
                "Falls are common in nursing homes, and their causes are many.",
                "We asked whether brighter corridors at night reduce falls.",
                "Twelve homes were randomised to new lamps or to none, and falls were counted for a year.",
                "There were 1.9 falls per resident with lamps and 2.6 without (p = 0.01).",
                "Brighter corridors at night may prevent falls.",
            ]
        },
        {
            "texts": [
                "To compare two ways of teaching inhaler use to children with asthma.",
                "Sixty children were taught by film or by a nurse.",
                "Both groups made fewer mistakes after four weeks.",
                "A film teaches as well as a nurse does.",
            ]
        },
        {"texts": ["No change was seen."]},
    )
