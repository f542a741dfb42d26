"""Ranking: which items follow a history, out of the whole catalogue, and what they were bought with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from heliostat.batch import Batch, Draws, Encoded, Ragged
from heliostat.component import LATER, Row, Settings
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, ItemFeatures
from heliostat.heads.item_relations import Relations
from heliostat.plugin import Metric, Record, TaskHead

if TYPE_CHECKING:
    from torch import nn

NEXT = "next_items"
"""The column of the items that followed a history; empty where all places of the history itself are learned."""
TARGETS = "following"
"""The column that holds, for each place of a history, the item to be predicted there."""
NEGATIVES = "negatives"
"""The column of items drawn for each place, against which its target is learned."""

NO_TARGET = -100
UNKNOWN = -1
"""In NEXT an item that is in no train history and has no text: it cannot be answered, and counts as missed."""

_TARGET_STREAM, _NEGATIVE_STREAM = 0, 1000

Item = Annotated[str, Field(min_length=1, max_length=200)]


class History(Record):
    """The items that somebody took, bought, read or saw."""

    history: list[Item] = Field(
        max_length=10_000,
        description="Items in order, the oldest first. Unknown ones say nothing; none is an answer too.",
    )


class NextItems(Record):
    """The items that follow, the best first."""

    items: list[str] = Field(description="Items that are not in the history, the best first.")
    scores: list[float] = Field(description="The share of each among all items that are not in the history.")
    texts: list[str] = Field(description="The text of each item; empty where it has none.")
    because: list[list[str]] = Field(description="For each item those of the history that most often went with it.")


class LinearTerm(Settings):
    """EASE over the same histories, added to the model's scores: what goes with what, learned in closed form."""

    weight: Annotated[float, Field(gt=0.0)]
    """What a linear score of 1 adds to a logit."""
    l2: Annotated[float, Field(gt=0.0)] = 200.0
    """Penalty of its weights."""
    fade: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on an item for each item after it in the history: below 1 newer ones say more."""


class Ranking(TaskHead):
    """The items that follow a history, ranked over the whole catalogue. Subclass it for samples and a page."""

    class Config(Settings):
        """Settings of a ranking."""

        k: Annotated[int, Field(ge=1, le=1000)] = 10
        """Items of an answer; scores are taken at this place, too."""
        exclude_seen: bool = True
        """Whether items of the history are never answered."""
        horizon: Annotated[int, Field(ge=1, le=1000), LATER] = 1
        """A place learns one of the next `horizon` items, drawn anew each epoch; 1 learns the very next."""
        negatives: Annotated[int, Field(ge=1, le=4096)] | None = None
        """Items drawn for each place, against which its target is learned (sampled softmax, for large catalogues);
        None takes them all."""
        label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.0
        """Share of the target that is spread over all items. Of the full softmax."""
        linear: LinearTerm | None = None
        """A linear term beside the model; None adds nothing. For catalogues of up to 20,000 items."""
        reasons: Annotated[int, Field(ge=0, le=20)] = 2
        """Items of the history that are named for each answer."""

    needs: ClassVar[type[ItemFeatures]] = ItemFeatures
    takes: ClassVar[type[Record]] = History
    gives: ClassVar[type[Record]] = NextItems
    target_fields: ClassVar[tuple[str, ...]] = ("next",)
    baselines: ClassVar[tuple[str, ...]] = ("core.popular", "core.item_knn", "core.ease")
    samples: ClassVar[tuple[Row, ...]] = ({"history": []},)
    selects: ClassVar[str] = "ndcg_at_10"
    searched: ClassVar[Mapping[str, Any]] = {
        "train.lr": "log(5e-4,1e-2)",
        "train.tokens_per_batch": "choice(1024,2048,4096,8192)",
        "train.weight_decay": "log(1e-3,0.3)",
        "head.horizon": "choice(1,3,10)",
    }

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.relations = Relations()
        self.selects = f"ndcg_at_{self.config.k}"  # type: ignore[misc]

    def fit(self, examples: Iterable[Row]) -> None:
        """Learn from the train histories which items go together. Raises DataError where there is no history."""
        histories = [example["history"] for example in examples]
        linear = self.config.linear
        self.relations = Relations.fit(histories, None if linear is None else linear.l2)

    def save(self, folder: Path) -> None:
        """Write which items go together."""
        self.relations.save(folder)

    def load(self, folder: Path) -> None:
        """Read which items go together."""
        self.relations = Relations.load(folder)

    def check_split(self, split: str, examples: Iterable[Row]) -> None:
        """Raises DataError for a split in which no item follows a history: nothing could be scored on it."""
        if not any(example["next"] for example in examples):
            raise DataError(
                f"core.ranking is scored by the items that followed each history, and in the {split} split none did: "
                "'next' is empty in all examples. Set data.split.by=sequence, which cuts them off the histories' ends."
            )

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The items that followed each history."""
        return [{NEXT: np.array(self._next(example, spec), dtype=np.int32)} for example in examples]

    def _next(self, example: Row, spec: FeatureSpec) -> list[int]:
        assert spec.vocabulary is not None
        wanted = [spec.vocabulary.ids(item) for item in dict.fromkeys(example["next"])]
        return [ids[0] if ids else UNKNOWN for ids in wanted]

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Set a following item beside each place, drawn among the next ones, and negatives where they are asked for."""
        assert spec.token_column is not None
        assert spec.vocabulary is not None
        items = batch.ragged(spec.token_column)
        columns = {TARGETS: _followers(items, batch, draws, self.config.horizon, spec)}
        if self.config.negatives:
            columns[NEGATIVES] = _drawn_items(items, batch, draws, self.config.negatives, spec)
        return batch.with_columns(**columns)

    def counts(self, batch: Batch) -> dict[str, float]:
        """The targets: places that an item follows, or items that followed a history."""
        followed = int((batch.ragged(TARGETS).values > 0).sum())
        return {"loss": float(followed + int((batch.ragged(NEXT).values != UNKNOWN).sum()))}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Products of states and item vectors; no weights of its own."""
        from heliostat.heads.ranking_module import RankingModule

        return RankingModule(self.config, spec, self.relations)

    def scores(self, tally: dict[str, Any]) -> dict[str, float]:
        """NDCG, recall and reciprocal rank of the first k, means over the histories that something followed."""
        count, k = max(1.0, float(tally["count"])), self.config.k
        return {f"{name}_at_{k}": float(tally[name]) / count for name in ("ndcg", "recall", "mrr")}

    def metrics(self) -> dict[str, Metric]:
        """NDCG, recall and reciprocal rank at k, then coverage of the catalogue and diversity within an answer."""
        from heliostat.heads.ranking_metrics import ranking_metrics

        return ranking_metrics(self.config.k, self.relations)


def _followers(items: Ragged, batch: Batch, draws: Draws, horizon: int, spec: FeatureSpec) -> Ragged:
    """For each place an item that follows it, and NO_TARGET for the last, or where targets came after the history.

    Also where an item follows that is in no train history: it is among none of the items that are learned against.
    """
    import torch

    lengths = np.asarray(items.lengths, dtype=np.int64)
    ends = np.repeat(np.cumsum(lengths), lengths)
    left = ends - np.arange(len(ends)) - 1  # items that follow a place
    ahead = np.ones_like(left)
    if horizon > 1:
        assert spec.token_column is not None
        reach = np.minimum(left, horizon)
        drawn = draws.uniform_like(batch, spec.token_column, _TARGET_STREAM)
        ahead = 1 + np.minimum((drawn * reach), reach - 1).astype(np.int64)
    learned = np.repeat(np.asarray(batch.ragged(NEXT).lengths) == 0, lengths) & (left > 0)
    places = np.where(learned, np.arange(len(ends)) + ahead, 0)
    values = items.values.index_select(0, torch.from_numpy(places))
    return items.with_values(values.masked_fill(~torch.from_numpy(learned) | (values > _num_warm(spec)), NO_TARGET))


def _drawn_items(items: Ragged, batch: Batch, draws: Draws, count: int, spec: FeatureSpec) -> Ragged:
    """`count` items for each place, evenly over the catalogue: [places * count]."""
    import torch

    assert spec.token_column is not None
    size = _num_warm(spec)
    streams = range(_NEGATIVE_STREAM, _NEGATIVE_STREAM + count)
    numbers = np.stack([draws.uniform_like(batch, spec.token_column, stream) for stream in streams], axis=1)
    drawn = torch.from_numpy((numbers * size).astype(np.int64).ravel() + 1)
    lengths = tuple(length * count for length in items.lengths)
    return Ragged(drawn, items.offsets * count, lengths)


def _num_warm(spec: FeatureSpec) -> int:
    """The items that stand in train histories; their numbers are 1 and on."""
    assert spec.vocabulary is not None
    count: int = getattr(spec.vocabulary, "num_warm", spec.vocabulary.size - 1)
    return count
