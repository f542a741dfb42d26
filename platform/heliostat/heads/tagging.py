"""Tagging: one tag a word, over the states of the words' first tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from heliostat.batch import Batch, Encoded
from heliostat.component import LATER, ClassName, Row, Settings, closest
from heliostat.errors import DataError
from heliostat.features import WORD_STARTS, FeatureSpec, TokenFeatures
from heliostat.heads.tagging_metrics import entities, tagging_metrics
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn

NO_TARGET = -100
"""The target of a word that was cut off."""

Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class Words(Record):
    """A text as its words."""

    words: list[Word] = Field(min_length=1, max_length=2000, description="The words of a text, in order.")


class Tags(Record):
    """The tag of each word, with its probability."""

    tags: list[str] = Field(description="One tag a word, in order.")
    confidences: list[float] = Field(description="The probability of each tag; 0 for a word behind the longest text.")


class Tagging(TaskHead):
    """One tag for each word: names, places, parts of speech. Entities are spans of IOB tags (B-PLACE, I-PLACE, O)."""

    class Config(Settings):
        """Settings of a tagging."""

        tags: tuple[ClassName, ...] | None = None
        """The tags in order; None takes those that the train examples have."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1

    needs: ClassVar[type[TokenFeatures]] = TokenFeatures
    takes: ClassVar[type[Record]] = Words
    gives: ClassVar[type[Record]] = Tags
    target_fields: ClassVar[tuple[str, ...]] = ("tags",)
    class_fields: ClassVar[tuple[str, ...]] = ("tags",)
    baselines: ClassVar[tuple[str, ...]] = ("core.frequent_tags",)
    selects: ClassVar[str] = "entity_f1"
    searched: ClassVar[Mapping[str, Any]] = {**TaskHead.searched, "head.dropout": "quniform(0,0.3,0.1)"}

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.tags: tuple[str, ...] = self.config.tags or ()
        self.outside = ""
        """The tag of a word that was cut off: `O`, or the most frequent one."""

    def fit(self, examples: Iterable[Row]) -> None:
        """Collect the tags. Raises DataError for an example with more or fewer tags than words, or a single tag."""
        seen: Counter[str] = Counter()
        for example in examples:
            _check(example)
            seen.update(example["tags"])
        self.tags = self.config.tags or tuple(sorted(seen))
        if unknown := sorted(set(seen) - set(self.tags)):
            raise DataError(f"tag {unknown[0]!r} of the train split is none of head.tags: {', '.join(self.tags)}.")
        if len(seen) < 2:
            raise DataError(f"a tagging needs two tags or more; the train split has {', '.join(seen) or 'none'}.")
        self.outside = "O" if "O" in self.tags else seen.most_common(1)[0][0]

    def save(self, folder: Path) -> None:
        """Write the tags."""
        fitted = {"tags": self.tags, "outside": self.outside}
        (folder / "tags.json").write_text(json.dumps(fitted, ensure_ascii=False, indent=1), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read the tags."""
        fitted = json.loads((folder / "tags.json").read_text(encoding="utf-8"))
        self.tags, self.outside = tuple(fitted["tags"]), fitted["outside"]

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The index of each word's tag. Raises DataError for a tag that is none of the tags."""
        index = {tag: place for place, tag in enumerate(self.tags)}
        for example in examples:
            _check(example)
            for tag in example["tags"]:
                if tag not in index:
                    guess = closest(str(tag), list(self.tags))
                    hint = f" Did you mean {guess!r}?" if guess else ""
                    raise DataError(f"tag {tag!r} is none of {', '.join(self.tags)}.{hint}")
        return [{"target": np.array([index[tag] for tag in row["tags"]], dtype=np.int32)} for row in examples]

    def counts(self, batch: Batch) -> dict[str, float]:
        """The words that were not cut off."""
        return {"loss": float((batch.ragged(WORD_STARTS).values >= 0).sum())}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one linear layer over the state of each word's first token."""
        from heliostat.heads.tagging_module import TaggingModule

        return TaggingModule(spec.dim, self.tags, self.outside, dropout=self.config.dropout)

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """Right words, words, and of entities: found and right, found, there."""
        sums = np.zeros(5)
        for target, row in zip(batch.ragged("target").split(), predictions, strict=True):
            tags = [self.tags[place] for place in target.tolist()]
            there, found = entities(tags), entities(row["tags"])
            right = sum(tag == given for tag, given in zip(tags, row["tags"], strict=True))
            sums += (right, len(tags), len(there & found), len(found), len(there))
        return {"sums": sums}

    def scores(self, tally: Tally) -> dict[str, float]:
        """Share of the words tagged right, and F1 over whole entities."""
        right, words, hits, found, there = tally["sums"].tolist()
        return {"accuracy": right / max(1.0, words), "entity_f1": 2 * hits / max(1.0, found + there)}

    def metrics(self) -> dict[str, Metric]:
        """F1, precision and recall over whole entities (as seqeval counts them), accuracy of words, F1 of each kind."""
        return tagging_metrics(self.tags)


def _check(example: Row) -> None:
    words, tags = example.get("words"), example.get("tags")
    if words is None or tags is None or len(words) != len(tags):
        found = f"{len(words or ())} words and {len(tags or ())} tags"
        raise DataError(f"a tagging needs as many tags as words; an example has {found}.")
