"""Texts that stand in two splits: equal ones by their normalised form, near ones by MinHash and a check of each.

Near means a Jaccard similarity of 0.8 or more between the sets of 5-character shingles. Candidates come from MinHash
signatures cut into b=8 bands of r=4 values (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
3.4): a pair of similarity s shares a band with probability 1 - (1 - s^r)^b, that is .985 at s=.8 and .9998 at s=.9.
Candidates are verified, so what is counted is near in truth, and what is missed is about one pair in seventy at s=.8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
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
_CHUNK_CHARS = 1 << 16
"""Characters that are signed at once: what their hashes take stays in a core's cache."""
_CHUNK_TEXTS = 2048
_MOST_SETS = 64
_SHOWN = 20

_DRAWS = np.random.Generator(np.random.PCG64(20)).integers(1, 2**63, size=(_BANDS * _ROWS, 2), dtype=np.uint64)
_FACTORS, _SHIFTS = _DRAWS[:, 0] | np.uint64(1), _DRAWS[:, 1]

Texts = Iterable[tuple[int, str]]
"""(id, text) of each example of a split; read several times, and never held whole."""


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
    looked_for = {here: _Signed.of(splits[here], near=near) for here in dict.fromkeys(here for here, _ in pairs)}
    seen = {(here, there): _Seen(looked_for[here]) for here, there in pairs}
    for name in dict.fromkeys(there for _, there in pairs):
        looking = [each for (_, there), each in seen.items() if there == name]
        for chunk in _chunks(splits[name], near=near):
            for each in looking:
                each.look_through(chunk)
    found = {f"{here}/{there}": seen[here, there].leak(splits[here])._asdict() for here, there in pairs}
    return {"similar_from": SIMILAR, "shingle_chars": _SHINGLE, **found}


def text_of(values: Row, fields: Sequence[str]) -> str | None:
    """The texts of an example among `fields` as one; None where it has none."""
    texts = [values[name] for name in fields if isinstance(values.get(name), str)]
    return "\n".join(texts) if texts else None


class _Chunk(NamedTuple):
    """Some texts of a split, normalised and signed."""

    ids: list[int]
    texts: list[str]
    digests: npt.NDArray[np.uint64]  # [texts]
    bands: npt.NDArray[np.uint64]  # [texts, bands], or no bands


def _chunks(texts: Texts, *, near: bool) -> Iterator[_Chunk]:
    rest = iter(texts)
    while some := list(islice(rest, _CHUNK_TEXTS)):
        clean = [normalised(text) for _, text in some]
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in clean)
        bands = signatures(clean) if near else np.zeros((len(clean), 0), dtype=np.uint64)
        yield _Chunk([id for id, _ in some], clean, np.frombuffer(digests, dtype=np.uint64), bands)


class _Signed(NamedTuple):
    """A whole split without its texts."""

    ids: npt.NDArray[np.uint64]
    digests: npt.NDArray[np.uint64]
    bands: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, texts: Texts, *, near: bool) -> _Signed:
        parts = [(np.array(chunk.ids, dtype=np.uint64), *chunk[2:]) for chunk in _chunks(texts, near=near)]
        if not parts:
            return cls(*(np.zeros(shape, dtype=np.uint64) for shape in (0, 0, (0, 0))))
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


class _Seen:
    """What one split shares with another, of which chunk after chunk goes by."""

    def __init__(self, here: _Signed) -> None:
        self.here = here
        self._digests = np.unique(here.digests)
        self._bands = [np.unique(here.bands[:, band]) for band in range(here.bands.shape[1])]
        self._twins: dict[int, int] = {}
        """Digest -> the id of the first text there that has it."""
        self._alike: dict[tuple[int, int], list[int]] = {}
        """(band, its value) -> places there of the first texts that have it."""
        self._texts: dict[int, tuple[int, str]] = {}
        """Place there -> (id, text), of those alone that may be near a text here."""
        self._count = 0

    def look_through(self, chunk: _Chunk) -> None:
        """Keep what may be equal or near to a text here."""
        for place in _hits(chunk.digests, self._digests):
            self._twins.setdefault(int(chunk.digests[place]), chunk.ids[place])
        for band, wanted in enumerate(self._bands):
            for place in _hits(chunk.bands[:, band], wanted):
                alike = self._alike.setdefault((band, int(chunk.bands[place, band])), [])
                if len(alike) < MAX_CANDIDATES:
                    alike.append(self._count + place)
                    self._texts[self._count + place] = chunk.ids[place], chunk.texts[place][:_MAX_CHARS]
        self._count += len(chunk.ids)

    def leak(self, texts: Texts) -> Leak:
        """What was found of `texts`, those of the split here."""
        ids, digests = self.here.ids.tolist(), self.here.digests.tolist()
        exact = [(id, self._twins[digest]) for id, digest in zip(ids, digests, strict=True) if digest in self._twins]
        near: list[tuple[int, int]] = []
        sets: dict[str, frozenset[str]] = {}
        for place, (id, text) in enumerate(texts if self._texts else ()):
            if digests[place] not in self._twins:
                twin = self._near(place, text, sets)
                near += [] if twin is None else [(id, twin)]
        shown = [list(pair) for pair in (*exact[:_SHOWN], *near[:_SHOWN])]
        return Leak(len(ids), len(exact), len(near), shown)

    def _near(self, place: int, text: str, sets: dict[str, frozenset[str]]) -> int | None:
        """The id of a near text there."""
        keys = enumerate(self.here.bands[place].tolist())
        candidates = dict.fromkeys(other for key in keys for other in self._alike.get(key, ()))
        clean = normalised(text) if candidates else ""
        for other in candidates:
            id, candidate = self._texts[other]
            if jaccard(clean, candidate, sets) >= SIMILAR:
                return id
        return None


def _hits(values: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> list[int]:
    """The places of values that are among `wanted`, which is sorted."""
    if not len(wanted):
        return []
    found = np.searchsorted(wanted, values)
    found[found == len(wanted)] = 0
    places: list[int] = np.flatnonzero(wanted[found] == values).tolist()
    return places


def jaccard(first: str, second: str, sets: dict[str, frozenset[str]]) -> float:
    """How much of their pieces two normalised texts share; `sets` keeps what was cut already, of some texts."""
    if len(sets) > _MOST_SETS:  # of 2000 characters, one takes 150 kB
        sets.clear()
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
    shingles = np.zeros(len(codes) - _SHINGLE + 1, dtype=np.uint64)
    for place in range(_SHINGLE):  # a rolling polynomial over five characters
        shingles *= np.uint64(0x100000001B3)
        shingles += codes[place : place + len(shingles)]
    starts = np.cumsum(lengths) - lengths
    inside = np.ones(len(codes), dtype=bool)  # a shingle may not run into the next text
    for place in range(1, _SHINGLE):
        inside[starts + lengths - place] = False
    shingles = shingles[inside[: len(shingles)]]
    counts = lengths - _SHINGLE + 1
    first = np.cumsum(counts) - counts
    bands = np.zeros((len(texts), _BANDS), dtype=np.uint64)
    hashed = np.empty_like(shingles)
    for row in range(_BANDS * _ROWS):
        np.multiply(shingles, _FACTORS[row], out=hashed)
        hashed += _SHIFTS[row]
        low = np.minimum.reduceat(hashed, first) >> np.uint64(32)
        band = row // _ROWS
        bands[:, band] = (bands[:, band] ^ low) * np.uint64(0x9E3779B97F4A7C15) + (bands[:, band] >> np.uint64(29))
    return bands
