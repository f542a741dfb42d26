"""The items that a model knows, each with its text where it has one: what they are called, and their numbers."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.errors import DataError

START = 0
"""The number in front of every history; items count from 1."""

_WORD = re.compile(r"\w+")


class Catalogue:
    """Items by number: those of the train histories first, then those that are known by their text alone (cold).

    It is the `Vocabulary` of an item encoder.
    """

    mask_id: int | None = None
    special_ids: tuple[int, ...] = (START,)

    def __init__(self, names: Sequence[str] = (), num_warm: int = 0, texts: Mapping[str, str] | None = None) -> None:
        self.names = tuple(names)
        self.num_warm = num_warm
        """Items that stand in train histories."""
        self.texts = dict(texts or {})
        """Item -> its text, where it has one."""
        self.size = len(self.names) + 1
        self._index = {name: place for place, name in enumerate(self.names, start=1)}

    @classmethod
    def of(cls, counts: Mapping[str, int], texts: Mapping[str, str]) -> Catalogue:
        """The catalogue of items with the count of train histories that hold each, and of texts by item."""
        warm = sorted(counts)
        return cls([*warm, *sorted(name for name in texts if name not in counts)], len(warm), texts)

    def number(self, name: str) -> int | None:
        """The number of an item, or None for one that is not known."""
        return self._index.get(name)

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The numbers of those items that are known, in order."""
        return [self._index[name] for name in names if name in self._index]

    def name(self, number: int) -> str:
        """The item with this number."""
        return self.names[number - 1]

    def ids(self, text: str) -> list[int]:
        """The number of an item, as the vocabulary of an encoder gives it; empty for one that is not known."""
        return self.numbers([text])

    def text(self, ids: Sequence[int]) -> str:
        """The items with these numbers, a space between them."""
        return " ".join(self.name(number) for number in ids if number != START)

    def starts_word(self) -> list[bool]:
        """Every item is a word of its own: [size]."""
        return [True] * self.size

    def words(self, least: int = 2) -> Words:
        """The words of the items' texts that stand in `least` texts or more, for a vector of each text."""
        found = [sorted(set(_WORD.findall(self.texts.get(name, "").casefold()))) for name in self.names]
        counts = Counter(word for words in found for word in words)
        index = {word: place for place, word in enumerate(sorted(w for w, n in counts.items() if n >= least))}
        return Words(len(index), [[], *([index[word] for word in words if word in index] for words in found)])

    def save(self, path: Path) -> None:
        """Write the catalogue as JSON."""
        fitted = {"names": self.names, "num_warm": self.num_warm, "texts": self.texts}
        path.write_text(json.dumps(fitted, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Read what `save` wrote."""
        fitted = json.loads(path.read_text(encoding="utf-8"))
        return cls(fitted["names"], fitted["num_warm"], fitted["texts"])


class Words(NamedTuple):
    """The words of each item's text, by number."""

    size: int
    """Different words."""
    of_items: list[list[int]]  # [catalogue.size], each the numbers of its words


def read_texts(address: str, item: str, text: str) -> dict[str, str]:
    """Item -> text from a table: a .parquet, .csv or .jsonl file, by path or as `package:<package>/<path>`.

    Raises DataError when there is no such file or it lacks one of the columns.
    """
    path = _located(address)
    texts: dict[str, str] = {}
    for row in _rows(path):
        if item not in row or text not in row:
            there = ", ".join(map(str, row)) or "none"
            raise DataError(f"encoder.texts={address}: needs the columns '{item}' and '{text}'; it has {there}.")
        if row[item] is not None and row[text]:
            texts.setdefault(str(row[item]), " ".join(str(row[text]).split()))
    if not texts:
        raise DataError(f"encoder.texts={address}: holds no text of an item.")
    return texts


def _located(address: str) -> Path:
    path = Path(address).expanduser()
    if address.startswith("package:"):
        package, _, inside = address.removeprefix("package:").partition("/")
        spec = util.find_spec(package) if package.isidentifier() else None
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if not folders:
            raise DataError(f"encoder.texts={address}: no installed package is named '{package}'. Install it first.")
        path = Path(folders[0]) / inside
    if not path.is_file() or path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise DataError(f"encoder.texts={address}: must be a .parquet, .csv or .jsonl file, and {path} is none.")
    return path


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
        return
    with path.open(encoding="utf-8", newline="") as file:
        yield from (
            csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file if line.strip())
        )
