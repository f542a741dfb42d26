"""Citations of PubMed -> abstracts: as texts to pretrain on, as sentences with their roles, with their headings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from heliostat.plugin import Column, DataAdapter, Documents, Field, RejectedRecord, Row, Settings, split_sentences
from heliostat_medical.headings import FREQUENT

ROLES = ("background", "objective", "methods", "results", "conclusions")
"""What a sentence is for: the categories that the National Library of Medicine gives to the sections of abstracts."""


class Section(NamedTuple):
    """A part of an abstract, with the role that its publisher gave it; None for none."""

    text: str
    role: str | None


class Citation(NamedTuple):
    """What is read of one citation."""

    pmid: str
    year: str
    """In which it was published; empty where the citation does not say."""
    sections: tuple[Section, ...]
    """The parts of the abstract in order; none where there is no abstract."""
    headings: tuple[str, ...]
    """Its MeSH headings, without qualifiers."""


class CitationSettings(Settings):
    """Which citations are read, and where they stand in the source."""

    citation: Column = "MedlineCitation"
    """The column that holds a citation: an element of the XML that PubMed gives out."""
    language: str | None = "eng"
    """Citations in another language are left out; None takes all."""


class Abstracts(DataAdapter):
    """Abstracts to pretrain on: texts, or pairs of neighbouring texts, with the `document` (PMID) that they are of."""

    class Config(CitationSettings):
        """How abstracts are cut."""

        give: Literal["chunks", "pairs"] = "pairs"
        """Texts for masked language modelling, or pairs of a `text` and the `next` one."""
        max_words: Annotated[int, Field(ge=8)] = 300
        """Most words of a text, or of a pair together."""
        min_words: Annotated[int, Field(ge=1)] = 20
        """Fewest words of an abstract; a shorter one is left out."""

    split_by: ClassVar[tuple[str, ...]] = ("document",)

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The texts or pairs of each abstract. Rejects a citation without a PMID."""
        settings = self.config
        cut = Documents.Config(give=settings.give, max_words=settings.max_words, min_words=settings.min_words)
        for citation in citations(rows, settings):
            # Sections are put together without their headings: headings would tell the roles of sentences.
            text = "\n\n".join(section.text for section in citation.sections)
            for example in Documents(cut).examples(iter([{"text": text}])):
                yield {**example, "document": citation.pmid}


class RoleSentences(DataAdapter):
    """The sentences of an abstract in order, as `texts`, and what each is for, as `labels`."""

    class Config(CitationSettings):
        """Which abstracts are taken."""

        max_sentences: Annotated[int, Field(ge=2)] = 60
        """An abstract with more sentences is left out."""

    split_by: ClassVar[tuple[str, ...]] = ("document",)

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example an abstract all of whose sections have a role; others give none."""
        for citation in citations(rows, self.config):
            if len({section.role for section in citation.sections} - {None}) < 2:
                continue
            if any(section.role is None for section in citation.sections):
                continue
            told = [(text, part.role) for part in citation.sections for text in split_sentences(part.text)]
            if len(told) <= self.config.max_sentences:
                texts, labels = ([text for text, _ in told], [role for _, role in told])
                yield {"texts": texts, "labels": labels, "document": citation.pmid, "year": citation.year}


class Headings(DataAdapter):
    """Title and abstract -> its MeSH headings among those that a head knows, as `labels`."""

    class Config(CitationSettings):
        """Which headings are learned."""

        headings: Annotated[tuple[str, ...], Field(min_length=2)] = FREQUENT
        """The headings that count, as in `head.labels`; an abstract with none of them has an empty list."""

    split_by: ClassVar[tuple[str, ...]] = ("document",)

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example an abstract that has been indexed; others give none."""
        known = set(self.config.headings)
        for citation in citations(rows, self.config):
            if citation.headings:
                text = " ".join(section.text for section in citation.sections)
                labels = [heading for heading in citation.headings if heading in known]
                yield {"text": text, "labels": labels, "document": citation.pmid, "year": citation.year}


def citations(rows: Iterator[Row], settings: Any) -> Iterator[Citation]:
    """The citations that have an abstract, in the language that is asked for. Rejects one without a PMID."""
    for row in rows:
        given = row[settings.citation]
        if not isinstance(given, Mapping):
            raise RejectedRecord(f"{settings.citation}: holds no citation")
        if not settings.language or settings.language in _texts(given, "Article", "Language"):
            citation = read_citation(given)
            if citation.sections:
                yield citation


def read_citation(given: Mapping[str, Any]) -> Citation:
    """A citation from its element `MedlineCitation`. Raises RejectedRecord without a PMID."""
    pmid = "".join(_texts(given, "PMID"))
    if not pmid:
        raise RejectedRecord("PMID: is missing")
    found = [
        Section(_text(part), _role(part)) for part in _all(given, "Article", "Abstract", "AbstractText") if _text(part)
    ]
    years = _texts(given, "Article", "Journal", "JournalIssue", "PubDate", "Year")
    return Citation(
        pmid=pmid,
        year=years[0] if years else "",
        sections=tuple(found),
        headings=tuple(_texts(given, "MeshHeadingList", "MeshHeading", "DescriptorName")),
    )


def _role(part: Any) -> str | None:
    category = str(part.get("@NlmCategory") or "").lower() if isinstance(part, Mapping) else ""
    return category if category in ROLES else None


def _all(given: Any, *path: str) -> list[Any]:
    """The values at a path: an element that stands once is a value, one that stands several times a list."""
    found = [given]
    for name in path:
        inner = [value.get(name) for value in found if isinstance(value, Mapping)]
        found = [each for value in inner for each in (value if isinstance(value, list) else [value])]
    return [value for value in found if value is not None]


def _texts(given: Any, *path: str) -> list[str]:
    return [text for value in _all(given, *path) if (text := _text(value))]


def _text(value: Any) -> str:
    """The text of an element on one line, markup within it left out."""
    if isinstance(value, Mapping):
        inner = [part for key, part in value.items() if not key.startswith("@")]
        value = " ".join(_text(part) for part in inner)
    elif isinstance(value, list):
        value = " ".join(_text(part) for part in value)
    return " ".join(str(value).split()) if value is not None else ""
