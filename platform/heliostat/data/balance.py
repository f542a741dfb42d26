"""Classes of the train split evened out: which examples are repeated, and which are left out."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

from heliostat.errors import DataError
from heliostat.run.cleaning import BalanceSettings


def balanced(classes: Sequence[Hashable], ids: Sequence[int], settings: BalanceSettings) -> list[int]:
    """How often each train example stands in the balanced split; 0 leaves it out.

    What is chosen within a class hangs on the ids alone, which are hashes: an even draw, the same each time.
    Raises DataError where examples have no class.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, name in enumerate(classes):
        if name is None or isinstance(name, float):
            raise DataError("data.balance needs one class an example, as of core.classification. Leave it out.")
        members[name].append(place)
    times = [1] * len(classes)
    sizes = [len(places) for places in members.values()]
    for places in members.values():
        places.sort(key=lambda place: ids[place])
        if settings.by == "under":
            for place in places[math.floor(min(sizes) * settings.within) :]:
                times[place] = 0
        else:
            wanted = max(len(places), math.ceil(max(sizes) / settings.within))
            for number, place in enumerate(places):
                times[place] = wanted // len(places) + (number < wanted % len(places))
    return times


def copy_id(id: int, copy: int) -> int:
    """The id of a repeated example: what is drawn for it in training differs from what is drawn for the first."""
    if copy == 0:
        return id
    digest = hashlib.blake2b(id.to_bytes(8, "little"), digest_size=8, salt=copy.to_bytes(8, "little"), person=b"copy")
    return int.from_bytes(digest.digest(), "little")
