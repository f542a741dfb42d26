"""MeSH headings: a title or an abstract in, the headings under which PubMed would file it out."""

from __future__ import annotations

from typing import ClassVar

from heliostat.plugin import Demo, Field, MultiLabel, Record, Row
from heliostat_medical.notice import NOTICE

FREQUENT = (
    "Humans",
    "Animals",
    "Male",
    "Female",
    "Adult",
    "Middle Aged",
    "Haplorhini",
    "Aged",
    "Rats",
    "Adolescent",
    "Time Factors",
    "Child",
    "Mice",
    "Pregnancy",
    "Kinetics",
    "Child, Preschool",
    "Macaca mulatta",
    "Infant",
    "Radiography",
    "Liver",
    "Rabbits",
    "Infant, Newborn",
    "Molecular Weight",
    "Immunodiffusion",
    "In Vitro Techniques",
    "Species Specificity",
    "Methods",
    "Dogs",
    "Amino Acids",
    "Microscopy, Electron",
    "Age Factors",
    "Brain",
    "Pseudomonas aeruginosa",
    "Cattle",
    "Dose-Response Relationship, Drug",
    "Escherichia coli",
    "Erythrocytes",
    "Mutation",
    "Calcium",
    "Insulin",
    "Blood Pressure",
    "Bacillus subtilis",
    "DNA",
    "Kidney",
    "Macaca",
    "Cells, Cultured",
    "Cell Membrane",
    "Immunoglobulin G",
    "Postoperative Complications",
    "Guinea Pigs",
)
"""The fifty headings that most of the indexed abstracts of the two files have, the most frequent first."""


class Article(Record):
    """An abstract as one text."""

    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="An abstract in English.")


class HeadingsDemo(Demo):
    """The page of a model of headings."""

    title: ClassVar[str] = "Under which headings would PubMed file this abstract?"
    description: ClassVar[str] = (
        "Each of fifty frequent MeSH headings by itself, by its probability. The model has read abstracts of the "
        "seventies for the most part: that is when those of its source were indexed."
    )
    moved_by: ClassVar[str] = "text"


class MeshHeadings(MultiLabel):
    """Any of the fifty most frequent MeSH headings."""

    class Config(MultiLabel.Config):
        """Settings of the head."""

        labels: tuple[str, ...] | None = FREQUENT

    takes: ClassVar[type[Record]] = Article
    notice: ClassVar[str] = NOTICE
    private: ClassVar[bool] = True
    demo: ClassVar[type[Demo] | None] = HeadingsDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "Rats were given insulin for two weeks, and glucose was measured in blood and liver."},
        {"text": "We followed forty women through pregnancy; blood pressure rose in nine of them."},
        {"text": "Membranes of Escherichia coli were looked at by electron microscopy."},
    )
