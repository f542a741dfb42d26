"""Texts, or pairs of them -> the ids that a model reads, cut and with special ones: by words where that is the same."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.encoders.tokenizer import Blank, encode_texts, second_start
from heliostat.encoders.word_ids import WIDTH, WordIds

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Text = str | tuple[str, ...]
"""One text, or two that are read together."""


class Tokens(NamedTuple):
    """A text, or a pair, as a model reads it."""

    ids: npt.NDArray[np.int32]
    is_cut: bool
    second: int
    """Where the second text of a pair begins, behind the last token when nothing is left of it; 0 for one text."""


class TextReader:
    """Reads texts with a tokenizer that cuts; see `read_tokenizer`. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._frames = [_Frame.of(tokenizer, count) for count in (1, 2)]
        self._words = WordIds.of(tokenizer) if all(self._frames) else None

    def __call__(self, texts: Sequence[Text], blank: Blank | None = None) -> list[Tokens]:
        """One for each text or pair, in order. Raises DataError for a text that is no Unicode."""
        found: list[Tokens | None] = [None] * len(texts)
        if self._words:
            found = list(self._by_words(self._words, texts, blank))
        rest = [place for place, tokens in enumerate(found) if tokens is None]
        if rest:
            encodings = encode_texts(self._tokenizer, [texts[place] for place in rest], blank)
            for place, encoding in zip(rest, encodings, strict=True):
                found[place] = _tokens(encoding, is_pair=not isinstance(texts[place], str))
        return [tokens for tokens in found if tokens is not None]

    def _by_words(self, words: WordIds, texts: Sequence[Text], blank: Blank | None) -> Iterator[Tokens | None]:
        """What can be put together of words; None for the others."""
        parts = [(text,) if isinstance(text, str) else text for text in texts]
        try:
            ids = iter(words([part for each in parts for part in each]))
        except (TypeError, UnicodeEncodeError):  # no Unicode: `encode_texts` says where
            yield from [None] * len(texts)
            return
        for each in parts:
            read = [next(ids) for _ in each]
            frame = self._frames[len(each) - 1]
            if None in read or frame is None or (blank and any(blank.written in part for part in each)):
                yield None
            else:
                yield frame.put_around([part for part in read if part is not None])


class _Frame(NamedTuple):
    """The special ids around one text, or around and between two."""

    pieces: tuple[bytes, ...]
    room: int
    """Bytes of ids that stay of the texts."""
    second: int
    """Where the second text begins, counted from the end of the first."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, count: int) -> _Frame | None:
        """Read off two words and what the tokenizer makes of them; None where they cannot be found in it again."""
        probe = ("a", "b")[:count]
        whole = tokenizer.encode("a", "b" if count == 2 else None)
        num_special = tokenizer.num_special_tokens_to_add(count == 2)
        pieces, end = [], 0
        for word in probe:
            ids = tokenizer.encode(word, add_special_tokens=False).ids
            starts = [at for at in range(end, len(whole.ids)) if whole.ids[at : at + len(ids)] == ids]
            if not ids or not starts:
                return None
            pieces.append(array("i", whole.ids[end : starts[0]]).tobytes())
            end, first_end = starts[0] + len(ids), end
        pieces.append(array("i", whole.ids[end:]).tobytes())
        cut = tokenizer.truncation
        plain = {"stride": 0, "strategy": "longest_first", "direction": "right"}
        if cut != {**plain, "max_length": cut and cut["max_length"]} or sum(map(len, pieces)) != WIDTH * num_special:
            return None
        return cls(tuple(pieces), WIDTH * (cut["max_length"] - num_special), second_start(whole) - first_end)

    def put_around(self, texts: Sequence[bytearray]) -> Tokens | None:
        """The texts with their special ids, one alone cut; None for a pair that is to be cut, or has an empty side."""
        is_long = sum(map(len, texts)) > self.room
        if len(texts) == 1:
            begin, end = self.pieces
            ids = np.frombuffer(bytearray().join((begin, texts[0][: self.room], end)), dtype=np.int32)
            return Tokens(ids, is_long, 0)
        if is_long or not all(texts):
            return None
        begin, between, end = self.pieces
        ids = np.frombuffer(bytearray().join((begin, texts[0], between, texts[1], end)), dtype=np.int32)
        return Tokens(ids, False, (len(begin) + len(texts[0])) // WIDTH + self.second)


def _tokens(encoding: Encoding, *, is_pair: bool) -> Tokens:
    second = second_start(encoding) if is_pair else 0
    return Tokens(np.array(encoding.ids, dtype=np.int32), bool(encoding.overflowing), second)
