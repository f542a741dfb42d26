"""Train texts that say nothing new: they stand in valid, in test, or earlier in train, equal or nearly so."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heliostat.data.leakage import MAX_CANDIDATES, SIMILAR, jaccard, signatures
from heliostat.data.split import normalised


class Repeats(NamedTuple):
    """Places among the train texts, by what they repeat."""

    exact: set[int]
    near: set[int]
    held_out: int
    """Of both, those whose twin stands in valid or test."""


def repeats(train: Sequence[str | None], held_out: Sequence[str], *, near: bool) -> Repeats:
    """The train texts that may go; the first of each kind stays, unless valid or test has it. None is never one."""
    texts = [*map(normalised, held_out), *(normalised(text) if text else "" for text in train)]
    offset = len(held_out)
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    bands = signatures(texts) if near else np.zeros((len(texts), 0), dtype=np.uint64)
    found = Repeats(set(), set(), 0)
    first: dict[bytes, int] = {}
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    pieces: dict[str, frozenset[str]] = {}
    from_held_out = 0
    for place, text in enumerate(texts):
        if not text:
            continue
        twin = first.get(digests[place])
        keys = list(enumerate(bands[place].tolist()))
        if place >= offset:
            exact = twin is not None
            if twin is None:
                twin = _near(texts, place, [other for key in keys for other in buckets.get(key, ())], pieces)
            if twin is not None:
                (found.exact if exact else found.near).add(place - offset)
                from_held_out += twin < offset
                continue
        first.setdefault(digests[place], place)
        for key in keys:
            if len(buckets[key]) < MAX_CANDIDATES:
                buckets[key].append(place)
    return found._replace(held_out=from_held_out)


def _near(texts: Sequence[str], place: int, candidates: list[int], pieces: dict[str, frozenset[str]]) -> int | None:
    for other in dict.fromkeys(candidates):
        if jaccard(texts[place], texts[other], pieces) >= SIMILAR:
            return other
    return None
