"""The encoder of texts that are words already: one vector a token, and where each word begins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from heliostat.component import Row
from heliostat.encoders.text import TextEncoder
from heliostat.errors import DataError
from heliostat.features import WORD_STARTS
from heliostat.plugin import Encoded

if TYPE_CHECKING:
    from tokenizers import Encoding


class WordsEncoder(TextEncoder):
    """A list of words -> one vector a token and one an example; a word may be several tokens."""

    class Config(TextEncoder.Config):
        """Settings of a text encoder; the field that is read is a list of words."""

        fields: Annotated[tuple[str, ...], Field(min_length=1, max_length=1)] = ("words",)
        """The field of an example that is read: a list of words."""

    def fit(self, examples: Iterable[Row]) -> None:
        """As of a text encoder. A vocabulary of bytes then tells words from their insides, as RoBERTa's and GPT-2's
        would not: they know a word by the space in front of it, and words of a list have none."""
        super().fit(examples)
        files, _ = self._fitted()
        tokenizer = json.loads(files.tokenizer)
        if _set_space_first(tokenizer):
            told = {**files.tokenizer_config, "add_prefix_space": True}
            self._take(files._replace(tokenizer=json.dumps(tokenizer, ensure_ascii=False), tokenizer_config=told))

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """`input_ids` of each example, and `word_starts`: where each word's first token stands, -1 for one cut off.

        Raises DataError for an example without a list of words.
        """
        _, tokenizer = self._fitted()
        texts = [list(self._words(example)) for example in examples]
        try:
            encodings = tokenizer.encode_batch(texts, is_pretokenized=True)
        except (TypeError, UnicodeEncodeError):
            raise DataError("a word of these examples holds half a character (a lone surrogate).") from None
        self.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        return [
            {"input_ids": np.array(encoding.ids, dtype=np.int32), WORD_STARTS: _starts(encoding, len(words))}
            for encoding, words in zip(encodings, texts, strict=True)
        ]

    def _parts(self, example: Row) -> tuple[str, ...]:
        return (" ".join(self._words(example)),)

    def _words(self, example: Row) -> Sequence[str]:
        (field,) = self.config.fields
        words: Any = example.get(field)
        if isinstance(words, np.ndarray):
            words = words.tolist()
        if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"encoder.fields names '{field}', which must be a list of words; the example has none.")
        return words


def _set_space_first(tokenizer: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` cut words without a space in front of them, and now does with one."""
    step = tokenizer.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers") or [step]
    if not any(each.get("type") == "ByteLevel" and each.get("add_prefix_space") is False for each in steps):
        return False
    if steps[0].get("type") == "ByteLevel":
        steps[0]["add_prefix_space"] = True
        return True
    # Behind a step that cuts words up it would set a space before each part: the whole word gets it earlier.
    before = [tokenizer["normalizer"]] if tokenizer.get("normalizer") else []
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [*before, {"type": "Prepend", "prepend": " "}]}
    return True


def _starts(encoding: Encoding, num_words: int) -> Any:
    starts = np.full(num_words, -1, dtype=np.int32)
    for place, word in reversed(list(enumerate(encoding.word_ids))):
        if word is not None:
            starts[word] = place
    return starts
