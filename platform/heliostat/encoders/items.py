"""The item encoder: a causal transformer over histories of items (SASRec: Kang and McAuley 2018), without padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from heliostat.component import LATER, Row, Settings, no_effect
from heliostat.encoders.item_catalogue import START, Catalogue, read_texts
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, ItemFeatures
from heliostat.plugin import Encoded, Encoder

if TYPE_CHECKING:
    from torch import nn

ITEMS = "items"
"""The column of what is read: START, then the newest items of a history."""
EARLIER = "earlier"
"""The column of items that were too long ago to be read."""

_CATALOGUE = "items.json"


class ItemEncoder(Encoder):
    """A history of items -> one vector a place, made of the items up to it; learned at all places at once."""

    class Config(Settings):
        """Settings of an item encoder."""

        field: str = "history"
        """The field of an example that holds the items in order, the oldest first."""
        dim: Annotated[int, Field(ge=4, le=4096)] = 64
        """Width of a state, and of an item's vector."""
        layers: Annotated[int, Field(ge=1, le=48)] = 2
        heads: Annotated[int, Field(ge=1, le=64)] = 2
        inner: Annotated[int, Field(ge=4)] | None = None
        """Width between the two products of a feed-forward layer; None takes 4 dim."""
        max_history: Annotated[int, Field(ge=1, le=8192)] = 200
        """Items of a history that are read, the newest; older ones are left out of the answer all the same."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.2
        """Of vectors and what each layer adds."""
        texts: Annotated[str, Field(min_length=1)] | None = None
        """A table of items with their texts (.parquet, .csv, .jsonl; a path or `package:<package>/<path>`). Items that
        no history holds then have a place, too, by the words that they share with others."""
        text_columns: tuple[str, str] = ("item", "text")
        """The columns of that table: item and text."""
        text_only: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
        """Share of the items that show their text alone in a step of the training, so that texts learn to stand for
        new items; None takes 0.1 where there are texts."""

        @model_validator(mode="after")
        def _whole_heads(self) -> Self:
            if self.dim % self.heads:
                raise ValueError(f"dim must be a multiple of heads; found {self.dim} and {self.heads}.")
            if self.text_only is not None and self.texts is None:
                raise no_effect("text_only", "no texts", "name a table in `texts`")
            return self

    gives: ClassVar[type[ItemFeatures]] = ItemFeatures

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.catalogue = Catalogue()

    def fingerprint(self) -> str:
        """The hash of the table of texts."""
        if self.config.texts is None:
            return ""
        import hashlib

        texts = sorted(read_texts(self.config.texts, *self.config.text_columns).items())
        return hashlib.blake2b(repr(texts).encode(), digest_size=16).hexdigest()

    def fit(self, examples: Iterable[Row]) -> None:
        """Number the items of the train histories, then those that have a text alone. Raises DataError for none."""
        counts = Counter(item for example in examples for item in set(self._history(example)))
        if not counts:
            raise DataError(f"core.items finds no item in the field '{self.config.field}' of the train examples.")
        texts = read_texts(self.config.texts, *self.config.text_columns) if self.config.texts else {}
        self.catalogue = Catalogue.of(counts, texts)

    def save(self, folder: Path) -> None:
        """Write the catalogue."""
        self.catalogue.save(folder / _CATALOGUE)

    def load(self, folder: Path) -> None:
        """Read the catalogue."""
        self.catalogue = Catalogue.load(folder / _CATALOGUE)

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """START and the newest items of each history, and beside them the older ones. Unknown items say nothing.

        Raises DataError for a field that is no list of texts.
        """
        return [self._encoded(self.catalogue.numbers(self._history(example))) for example in examples]

    def _encoded(self, numbers: list[int]) -> dict[str, Any]:
        first = max(0, len(numbers) - self.config.max_history)
        earlier = sorted(set(numbers[:first]))
        return {
            ITEMS: np.array([START, *numbers[first:]], dtype=np.int32),
            EARLIER: np.array(earlier, dtype=np.int32),
        }

    def _history(self, example: Row) -> list[str]:
        history = example.get(self.config.field)
        if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
            raise DataError(f"encoder.field names '{self.config.field}', which must be a list of item names.")
        return history

    def spec(self) -> FeatureSpec:
        """Width of the states, and the catalogue as vocabulary."""
        return FeatureSpec(self.config.dim, self.catalogue, ITEMS, max_tokens=self.config.max_history + 1)

    def module(self) -> nn.Module:
        """An ItemModule with fresh weights."""
        from heliostat.encoders.items_module import ItemModule

        text_only = 0.1 if self.config.text_only is None else self.config.text_only
        return ItemModule(self.config, self.catalogue, text_only if self.config.texts else 0.0)

    def depth_of(self, parameter: str) -> int | None:
        """0 for vectors of items, words and places, k for the k-th layer."""
        first, _, rest = parameter.partition(".")
        if first == "layers":
            return int(rest.partition(".")[0]) + 1
        return 0 if first in ("items", "words", "places") else None
