"""Token ids word by word: words that were read before are looked up, and the tokenizer is asked for new ones alone.

That gives the tokenizer's own ids where nothing in it reaches over a space: `WordIds.of` reads that off its parts, and
knows no way for the others. Most words of a corpus are frequent ones, so most of the time a text is a few look-ups.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WIDTH = array("i").itemsize
"""Bytes of an id in what is handed on: that of numpy's int32."""

_WITHIN_WORDS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
"""Normalisers that look at a character and the marks on it; a space carries none of the text around it."""
_LEAVES_SPACES_OUT = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_MOST_WORDS = 2**17
"""Words that are kept, about 25 MB of them; then all are forgotten, and frequent ones are soon back."""
_LONGEST = 40
"""Characters of a word that is worth keeping: longer ones, as sentences of a script without spaces, rarely return."""

_SOME_WORDS = 2000
"""Words known from which on texts that are mostly new ones, as of a script without spaces, are read whole."""

Ids = bytes | None
"""Ids of a word as 32-bit numbers; None for a word that its neighbours may change."""


class WordIds:
    """The ids of texts without special ones, by their words. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, stands_alone: Callable[[str], bool] | None) -> None:
        self._tokenizer = tokenizer
        self._stands_alone = stands_alone
        """Whether a word reads the same between any others; None where every word does."""
        self._known: dict[str, Ids] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordIds | None:
        """The look-up for this tokenizer; None where a text may be more than its words."""
        from tokenizers import Tokenizer

        described = json.loads(tokenizer.to_str())
        if not _is_local(described):
            return None
        whole = Tokenizer.from_str(json.dumps({**described, "truncation": None, "padding": None}))
        whole.encode_special_tokens = True
        if described["pre_tokenizer"]["type"] in _LEAVES_SPACES_OUT:
            return cls(whole, None)
        normal = whole.normalizer

        def stands_alone(word: str) -> bool:
            # A space is the beginning of the word behind it, unless there is more white space beside it.
            if not word or (word.isascii() and word.isprintable()):
                return True
            read = normal.normalize_str(word) if normal else word
            return bool(read) and read == read.strip()

        return cls(whole, stands_alone)

    def __call__(self, texts: Sequence[str]) -> list[bytearray | None]:
        """The ids of each text, as 32-bit numbers end to end; None for a text that the tokenizer must read whole.

        Raises TypeError or UnicodeEncodeError for a text that is no Unicode.
        """
        spaces_count = self._stands_alone is not None
        known = self._known  # never loses a word: a full one is replaced
        found: list[bytearray | None] = []
        later: list[tuple[int, list[str]]] = []
        for place, text in enumerate(texts):
            words = text.split(" ")
            if spaces_count and _is_spaced_oddly(text):
                found.append(None)
                continue
            try:
                found.append(bytearray().join(map(known.__getitem__, words)))  # type: ignore[arg-type]
            except KeyError:
                later.append((place, words))
                found.append(None)
            except TypeError:  # a word that does not stand alone
                found.append(None)
        if later:
            unknown = {word for _, words in later for word in words if word not in known}
            if len(known) > _SOME_WORDS and 2 * sum(map(len, unknown)) > sum(len(texts[place]) for place, _ in later):
                return found
            new = self._read(unknown)
            for place, words in later:
                ids = [new[word] if word in new else known[word] for word in words]
                found[place] = None if None in ids else bytearray().join(ids)  # type: ignore[arg-type]
            self._keep(new)
        return found

    def _read(self, words: Iterable[str]) -> dict[str, Ids]:
        """What the tokenizer makes of each word."""
        asked = list(words)
        gap = "" if self._stands_alone is None else " "  # between two spaces stands one of its own, or nothing
        encodings = self._tokenizer.encode_batch_fast([word or gap for word in asked], add_special_tokens=False)
        alone = self._stands_alone
        return {
            word: array("i", encoding.ids).tobytes() if alone is None or alone(word) else None
            for word, encoding in zip(asked, encodings, strict=True)
        }

    def _keep(self, new: dict[str, Ids]) -> None:
        short = {word: ids for word, ids in new.items() if len(word) <= _LONGEST}
        if len(self._known) + len(short) > _MOST_WORDS:
            self._known = short
        else:
            self._known.update(short)


def _is_spaced_oddly(text: str) -> bool:
    """Whether spaces stand in it that are neither the beginning of a word nor a single one before that."""
    return not text or text[0] == " " or "   " in text or text.endswith("  ")


def _is_local(described: dict[str, Any]) -> bool:
    """Whether the parts of this tokenizer are known to let nothing reach over a space."""
    if any(not token["special"] for token in described["added_tokens"]):
        return False  # it may hold spaces; special ones are text like any other
    if described["model"].get("dropout"):
        return False  # the same word is not always the same tokens
    normalizer = described["normalizer"] or {"type": "NFC"}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    if any(step["type"] not in _WITHIN_WORDS for step in steps):
        return False
    cut = described["pre_tokenizer"] or {"type": None}
    by_bytes = cut["type"] == "ByteLevel" and cut["add_prefix_space"] and cut.get("use_regex", True)
    return bool(by_bytes or cut["type"] in _LEAVES_SPACES_OUT)
