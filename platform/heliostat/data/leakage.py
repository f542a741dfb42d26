"""Texts that stand in two splits: equal ones by their normalised form, near ones by MinHash and a check of each.

Near means a Jaccard similarity of 0.8 or more between the sets of 5-character shingles. Candidates come from MinHash
signatures cut into b=8 bands of r=4 values (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
3.4): a pair of similarity s shares a band with probability 1 - (1 - s^r)^b, that is .985 at s=.8 and .9998 at s=.9.
Candidates are verified, so what is counted is near in truth, and what is missed is about one pair in seventy at s=.8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.component import Row
from heliostat.data.split import normalised

SIMILAR = 0.8
"""Jaccard similarity from which two texts count as near."""

_SHINGLE = 5
_BANDS, _ROWS = 8, 4
_MAX_CHARS = 2000
"""Characters of a text that the search for near duplicates reads."""
MAX_CANDIDATES = 16
"""Candidates a band that are verified for one text: bounds the work where thousands of texts share their words."""
_CHUNK_CHARS = 1 << 20
_SHOWN = 20

_DRAWS = np.random.Generator(np.random.PCG64(20)).integers(1, 2**63, size=(_BANDS * _ROWS, 2), dtype=np.uint64)
_FACTORS, _SHIFTS = _DRAWS[:, 0] | np.uint64(1), _DRAWS[:, 1]

Texts = Sequence[tuple[int, str]]
"""(id, text) of each example of a split."""


class Leak(NamedTuple):
    """What one split shares with another."""

    checked: int
    """Texts looked for."""
    exact: int
    """Those that stand in the other split too, but for case, width and space."""
    near: int
    """Those that are not, and have a near one there."""
    pairs: list[list[int]]
    """Some of them: [id here, id there]."""


PAIRS = (("test", "train"), ("valid", "train"), ("test", "valid"))


def leakage(
    splits: Mapping[str, Texts], pairs: Sequence[tuple[str, str]] = PAIRS, *, near: bool = True
) -> dict[str, Any]:
    """What of the first of each pair stands in the second, as plain values, keyed `test/train`.

    Without `near`, as for the rows of a table, of which many are alike, equal ones are counted alone.
    """
    prepared = {name: _Texts.of(texts, near=near) for name, texts in splits.items()}
    found = {f"{here}/{there}": _leak(prepared[here], prepared[there])._asdict() for here, there in pairs}
    return {"similar_from": SIMILAR, "shingle_chars": _SHINGLE, **found}


def text_of(values: Row, fields: Sequence[str]) -> str | None:
    """The texts of an example among `fields` as one; None where it has none."""
    texts = [values[name] for name in fields if isinstance(values.get(name), str)]
    return "\n".join(texts) if texts else None


class _Texts(NamedTuple):
    """The texts of a split, normalised and signed."""

    ids: list[int]
    texts: list[str]
    digests: list[bytes]
    bands: npt.NDArray[np.uint64]  # [texts, bands]

    @classmethod
    def of(cls, texts: Texts, *, near: bool) -> _Texts:
        clean = [normalised(text) for _, text in texts]
        digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in clean]
        return cls([id for id, _ in texts], clean, digests, signatures(clean if near else []))


def _leak(here: _Texts, there: _Texts) -> Leak:
    first: dict[bytes, int] = {}
    for index, digest in enumerate(there.digests):
        first.setdefault(digest, index)
    twins = {index: first[digest] for index, digest in enumerate(here.digests) if digest in first}
    rest = [index for index in range(len(here.ids)) if index not in twins]
    near = _near(here, there, rest) if len(here.bands) and len(there.bands) else {}
    shown = [*sorted(twins.items())[:_SHOWN], *sorted(near.items())[:_SHOWN]]
    return Leak(len(here.ids), len(twins), len(near), [[here.ids[a], there.ids[b]] for a, b in shown])


def _near(here: _Texts, there: _Texts, rest: list[int]) -> dict[int, int]:
    """Text here -> a near text there, for those of `rest` that have one."""
    found: dict[int, int] = {}
    sets: dict[str, frozenset[str]] = {}
    for band in range(_BANDS):
        buckets: dict[int, list[int]] = {}
        wanted = set(here.bands[rest, band].tolist())
        for index, value in enumerate(there.bands[:, band].tolist()):
            if value in wanted:
                buckets.setdefault(value, []).append(index)
        for index in rest:
            if index in found:
                continue
            for candidate in buckets.get(int(here.bands[index, band]), [])[:MAX_CANDIDATES]:
                if jaccard(here.texts[index], there.texts[candidate], sets) >= SIMILAR:
                    found[index] = candidate
                    break
    return found


def jaccard(first: str, second: str, sets: dict[str, frozenset[str]]) -> float:
    """How much of their pieces two normalised texts share; `sets` keeps what was cut already."""
    for text in (first, second):
        if text not in sets:
            short = text[:_MAX_CHARS]
            starts = range(max(1, len(short) - _SHINGLE + 1))
            sets[text] = frozenset(short[start : start + _SHINGLE] for start in starts)
    a, b = sets[first], sets[second]
    return len(a & b) / len(a | b)


def signatures(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The bands of each text's MinHash signature: [texts, bands]."""
    bands = np.zeros((len(texts), _BANDS), dtype=np.uint64)
    start = 0
    while start < len(texts):
        end, chars = start, 0
        while end < len(texts) and (end == start or chars + len(texts[end]) < _CHUNK_CHARS):
            chars, end = chars + len(texts[end]), end + 1
        bands[start:end] = _signed([text[:_MAX_CHARS] for text in texts[start:end]])
        start = end
    return bands


def _signed(texts: list[str]) -> npt.NDArray[np.uint64]:
    padded = [text.ljust(_SHINGLE, "\0") for text in texts]  # each text has a shingle at least
    lengths = np.array([len(text) for text in padded])
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        shingles = np.zeros(len(codes) - _SHINGLE + 1, dtype=np.uint64)
        for place in range(_SHINGLE):  # a rolling polynomial over five characters
            shingles = shingles * np.uint64(0x100000001B3) + codes[place : place + len(shingles)]
        starts = np.cumsum(lengths) - lengths
        inside = np.ones(len(codes), dtype=bool)  # a shingle may not run into the next text
        for place in range(1, _SHINGLE):
            inside[starts + lengths - place] = False
        shingles = shingles[inside[: len(shingles)]]
        counts = lengths - _SHINGLE + 1
        first = np.cumsum(counts) - counts
        bands = np.zeros((len(texts), _BANDS), dtype=np.uint64)
        for row in range(_BANDS * _ROWS):
            hashed = (shingles * _FACTORS[row] + _SHIFTS[row]) >> np.uint64(32)
            low = np.minimum.reduceat(hashed, first)
            band = row // _ROWS
            bands[:, band] = (bands[:, band] ^ low) * np.uint64(0x9E3779B97F4A7C15) + (bands[:, band] >> np.uint64(29))
    return bands
