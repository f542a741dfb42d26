"""The adapter for corpora: a document -> chunks of it, or pairs of neighbouring texts; never across documents."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from heliostat.component import Column, Row, Settings
from heliostat.errors import RejectedRecord
from heliostat.plugin import DataAdapter

_SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?…])|(?<=[.!?…]["'”’)\]]))\s+(?=["'“‘(\[]?[^\W_a-z])|(?<=[。！？])|\s*\n\s*\n\s*"""
)
"""Behind a full stop and before what is no small letter; behind East Asian ones; at a blank line."""

_SPACE_AT_END = re.compile(r"""\s(?:(?<=[.!?…]\s)|(?<=[.!?…]["'”’)\]]\s))\s*(?=["'“‘(\[]?[^\W_a-z])""")
"""The first of these three, found four times as fast: it begins with a space, which few characters are."""
_OTHER_ENDS = re.compile("[\n。！？]")
"""What a text has where it has one of the other two."""

_EAST_ASIAN = re.compile("[\u2e81-\U0010ffff]")
"""Signs of scripts without white space, and what stands behind them in Unicode."""


class Documents(DataAdapter):
    """Documents for pretraining: each gives texts of up to `max_words`, cut between sentences, with its `document`."""

    class Config(Settings):
        """How documents are recognised and cut."""

        text: Column = "text"
        """The column that holds a document, or a part of one."""
        document: Column | None = None
        """The column whose equal values make one document, in the order of the source, and without which a record is
        rejected; None: a record is a document."""
        give: Literal["chunks", "pairs"] = "chunks"
        """What becomes of a document: texts, for masked and causal language modelling, or pairs of a `text` and the
        `next` one, for heads that ask whether one follows the other."""
        max_words: Annotated[int, Field(ge=8)] = 160
        """Most words of a text, or of a pair together; a word is about 1.3 tokens, and `encoder.max_tokens` cuts."""
        min_words: Annotated[int, Field(ge=1)] = 1
        """Fewest words of a document; a shorter one is left out."""

    split_by: ClassVar[tuple[str, ...]] = ("document",)

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.group_by = self.config.document

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The texts or pairs of one document. Rejects a document without text."""
        records = list(rows)
        texts = [str(row[self.config.text]).strip() for row in records if row[self.config.text] is not None]
        if not texts:
            raise RejectedRecord(f"{self.config.text}: is missing")
        sentences = [sentence for text in texts for sentence in split_sentences(text)]
        if sum(map(num_words, sentences)) < self.config.min_words:
            return
        document = self._name(records[0], texts)
        if self.config.give == "chunks":
            for text in packed(sentences, self.config.max_words):
                yield {"text": text, "document": document}
            return
        parts = halves(sentences, self.config.max_words)
        last = len(parts) - 1
        # The last one stands in two pairs where their number is odd, so that no text is lost.
        for place in sorted({*range(0, last, 2), *([last - 1] if last > 0 else [])}):
            yield {"text": parts[place], "next": parts[place + 1], "document": document}

    def _name(self, record: Row, texts: Sequence[str]) -> str:
        """The document's name, or a hash of its text: then equal documents count as one."""
        if self.config.document is not None:
            return str(record[self.config.document])
        return hashlib.blake2b("\n".join(texts).encode("utf-8", "replace"), digest_size=8).hexdigest()


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, as far as full stops and blank lines tell; white space within them is one space."""
    end = _SENTENCE_END if _OTHER_ENDS.search(text) else _SPACE_AT_END
    return [" ".join(part.split()) for part in end.split(text) if part and not part.isspace()]


def num_words(text: str) -> int:
    """Words between white space; of a script without it, every two characters count as one."""
    words = len(text.split())
    return words if text.isascii() else max(words, len(_EAST_ASIAN.findall(text)) // 2)


def packed(sentences: Sequence[str], max_words: int, cut_at: int | None = None) -> list[str]:
    """Neighbouring sentences put together up to `max_words`; one above that (or `cut_at`) is cut between words."""
    texts: list[str] = []
    held: list[str] = []
    size = 0
    for piece in (piece for sentence in sentences for piece in _cut(sentence, cut_at or max_words)):
        words = num_words(piece)
        if held and size + words > max_words:
            texts.append(" ".join(held))
            held, size = [], 0
        held.append(piece)
        size += words
    return [*texts, " ".join(held)] if held else texts


def halves(sentences: Sequence[str], max_words: int) -> list[str]:
    """Texts of which two neighbours make a pair: `max_words` together at most, and two of a document if it has two."""
    total = sum(map(num_words, sentences))
    return packed(sentences, max(1, min(max_words // 2, -(-total // 2))), cut_at=max_words // 2)


def _cut(sentence: str, max_words: int) -> list[str]:
    if num_words(sentence) <= max_words:
        return [sentence]
    words = sentence.split()
    if len(words) >= max_words:
        return [" ".join(words[start : start + max_words]) for start in range(0, len(words), max_words)]
    size = 2 * max_words  # characters of a script without white space
    return [sentence[start : start + size] for start in range(0, len(sentence), size)]
