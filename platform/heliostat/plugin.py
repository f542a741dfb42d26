"""The door: all that a plugin may import.

A plugin is a package with one entry point in the group `heliostat.plugins`, a function `register(registry)`. It gives
classes: a `DataAdapter` (raw records -> examples), a `TaskHead` (features -> losses and predictions), and where it
needs them an `Encoder`, a `Baseline`, a `Demo`. Describing is apart from computing: these classes import no torch;
what computes comes from `module(...)`, and torch is imported there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from heliostat.batch import Batch, Draws, Encoded, Ragged
from heliostat.component import Column, Component, Fitted, Name, Row, Settings
from heliostat.errors import DataError, HeliostatError, RejectedRecord
from heliostat.features import (
    CausalFeatures,
    Decoder,
    Features,
    FeatureSpec,
    ItemFeatures,
    PooledFeatures,
    SegmentFeatures,
    Seq2SeqFeatures,
    TabularFeatures,
    TokenFeatures,
    Vocabulary,
)  # fmt: skip
from heliostat.modules import EncoderModule, HeadModule, MeasuringModule, StreamingModule
from heliostat.records import Demo, Record
from heliostat.registry import Registry
from heliostat.scoring import Chart, Metric, Tally

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from heliostat.adapters.documents import Documents, split_sentences
    from heliostat.heads.classification import Classification
    from heliostat.heads.hierarchy import Hierarchy
    from heliostat.heads.multilabel import MultiLabel
    from heliostat.heads.ranking import Ranking
    from heliostat.heads.regression import Regression
    from heliostat.heads.risk import Risk, Risky
    from heliostat.heads.segments import SegmentLabels
    from heliostat.heads.seq2seq import Seq2Seq
    from heliostat.heads.tagging import Tagging

__all__ = [
    "Baseline", "Batch", "CausalFeatures", "Chart", "Classification", "Column", "Component", "DataAdapter", "DataError",
    "Decoder", "Demo", "Documents", "Draws", "Encoded", "Encoder", "EncoderModule", "FeatureSpec", "Features", "Field",
    "HeadModule", "HeliostatError", "Hierarchy", "ItemFeatures", "MeasuringModule", "Metric", "MultiLabel", "Name",
    "PooledFeatures", "Ragged", "Ranking", "Record", "Registry", "Regression", "RejectedRecord", "Risk", "Risky", "Row",
    "SegmentFeatures", "SegmentLabels", "Seq2Seq", "Seq2SeqFeatures", "Settings", "StreamingModule", "TabularFeatures",
    "Tagging", "Tally", "TaskHead", "TokenFeatures", "Vocabulary", "split_sentences",
]  # fmt: skip


class DataAdapter(Component):
    """Raw records in, examples out."""

    kind: ClassVar[str] = "adapter"

    group_by: str | None = None
    """A column whose equal values make a group: `examples` then receives whole groups, and records without a value are
    rejected. None: a group is one record."""
    order_by: str | None = None
    """A column by which the records of a group are put in order. Times in it that are text are to be ISO 8601."""
    split_by: ClassVar[tuple[str, ...]] = ()
    """Fields of the examples whose equal values stay in one split, as `document`, where the run names no key."""

    @abstractmethod
    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The examples of one group of raw records: of one record, unless `group_by` is declared.

        Raise RejectedRecord with a reason for a record that should be left out. A KeyError counts as a missing column,
        and a ValueError or TypeError as a bad record.
        """
        raise NotImplementedError


class Encoder(Fitted):
    """Examples -> numbers -> features. The same `encode` serves training and requests, so they cannot drift apart."""

    kind: ClassVar[str] = "encoder"

    gives: ClassVar[type[Features]] = PooledFeatures
    """The type of features its module returns."""
    reads_rows: ClassVar[bool] = False
    """Whether examples are rows of a table: then equal ones are searched for in two splits, and not those alike."""

    def fit(self, examples: Iterable[Row]) -> None:
        """Learn what encoding needs (a vocabulary, scales) from the train examples. `examples` may be iterated once."""

    def fingerprint(self) -> str:
        """What `encode` depends on beside settings and code, as the content of a pretrained vocabulary; else empty."""
        return ""

    @abstractmethod
    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """One encoded example each, in order. Raises DataError for a record that cannot be encoded."""
        raise NotImplementedError

    @abstractmethod
    def spec(self) -> FeatureSpec:
        """The shape of the features, once fitted."""
        raise NotImplementedError

    @abstractmethod
    def module(self) -> nn.Module:
        """A fresh (or pretrained) `nn.Module` whose forward takes a Batch and returns `gives`. Import torch in here."""
        raise NotImplementedError

    def depth_of(self, parameter: str) -> int | None:
        """How deep a parameter of `module` lies, by its name there: 0 for embeddings, k for the k-th layer.

        None for one that belongs to no layer. An encoder that says so can be trained with `train.layer_decay`.
        """
        return None

    def save_weights(self, module: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write `weights` (named as in `module.state_dict()`) to `folder/model.safetensors`."""
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")

    def load_weights(self, module: nn.Module, folder: Path) -> None:
        """Read into `module` what `save_weights` wrote."""
        from safetensors.torch import load_file

        module.load_state_dict(load_file(folder / "model.safetensors"))


class TaskHead(Fitted):
    """The task of a domain: its records, its targets, its losses, its predictions and its metrics."""

    kind: ClassVar[str] = "head"

    needs: ClassVar[type[Features]] = PooledFeatures
    """The type of features it reads; a run whose encoder gives another is refused."""
    takes: ClassVar[type[Record]] = Record
    """The record it answers: the request of the served model."""
    gives: ClassVar[type[Record]] = Record
    """The record it answers with."""
    target_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of an example that are learned and not asked for, as `label`."""
    class_fields: ClassVar[tuple[str, ...]] = ()
    """Those of the target fields that hold the name of a class, or a list of names. Examples hold them as text, however
    the source does: the number 1 (or 1.0) is the class `1`, true is `true`."""
    samples: ClassVar[tuple[Row, ...]] = ()
    """Made-up records of the form `takes`: the demo's examples and the golden requests of every checkpoint."""
    baselines: ClassVar[tuple[str, ...]] = ()
    """Addresses of the baselines that every report sets beside the model, as `core.tfidf`."""
    demo: ClassVar[type[Demo] | None] = None
    """The page of `heliostat demo`; None takes the one generated from `takes` and `gives`."""
    selects: ClassVar[str] = "loss"
    """The validation score by which the best checkpoint is chosen: a key of `scores`, or `loss`."""
    searched: ClassVar[Mapping[str, Any]] = {
        "train.lr": "log(1e-5,3e-3)",
        "train.tokens_per_batch": "choice(2048,4096,8192,16384)",
        "train.warmup": "uniform(0,0.3)",
        "train.weight_decay": "log(1e-3,0.3)",
    }
    """What `heliostat tune` searches where nobody says so: dotted keys of the run, and what each may take."""
    notice: ClassVar[str] = ""
    """A sentence that every page and card of the model carries, as `Not for clinical decisions.`"""
    batch_dependent: ClassVar[bool] = False
    """Whether the loss reads other examples of the batch (in-batch negatives), so that it varies with num_workers."""
    draws_partners: bool = False
    """Whether `prepare` finds in `batch.partners` another example of the split for each, drawn anew each epoch."""
    private: ClassVar[bool] = False
    """Whether its records are private (medical, finance): reports and logs name examples by id and show no text."""
    streams: ClassVar[bool] = False
    """Whether its module is a StreamingModule: then a deployment answers `:stream`, a piece of text at a time."""
    errors: ClassVar[tuple[str, ...]] = ()
    """Scores of which less is better, beside `loss` and those that are named `*_error`: as `perplexity`."""

    def is_error(self, score: str) -> bool:
        """Whether less of a validation score is better."""
        return score == "loss" or score.endswith("_error") or score in self.errors

    def fit(self, examples: Iterable[Row]) -> None:
        """Learn what targets need (the set of labels) from the train examples. `examples` may be iterated once."""

    def check_split(self, split: str, examples: Iterable[Row]) -> None:
        """Raise DataError where `split` (valid or test, and not empty) holds nothing to score an answer by."""

    def read(self, examples: Sequence[Row]) -> list[Encoded]:
        """Columns that the head itself reads from each record, beside the encoder's: in training and in requests."""
        return [{} for _ in examples]

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The target columns of each example, in order. Raises DataError naming a target that cannot be one.

        `spec` is that of the fitted encoder: targets that are tokens take their ids from its vocabulary.
        """
        return [{} for _ in examples]

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Draw what is new in each epoch: masks, negatives. Pure in (batch, draws)."""
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """The count of targets behind each loss term in a prepared batch: its sum over all workers is divided by it."""
        return {"loss": float(len(batch))}

    def weights(self) -> dict[str, float]:
        """The weight of each loss term in the total; a term that is not named weighs 1."""
        return {}

    @abstractmethod
    def module(self, spec: FeatureSpec) -> nn.Module:
        """An `nn.Module` with the two methods of HeadModule. Import torch in here."""
        raise NotImplementedError

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """Sums from which `scores` are made; those of halves add up to those of the whole.

        A module with `measure` gives sums of its own, from states instead of answers; both are added up.
        """
        return {}

    def scores(self, tally: Tally) -> dict[str, float]:
        """Validation scores during training, from tallies added up over all batches and workers."""
        return {}

    def calibrate(
        self, examples: Sequence[Row], predictions: Sequence[Row], groups: Sequence[float] | None = None
    ) -> bool:
        """Fit on the valid split how scores become answers, and say whether anything changed; `save` then keeps it.

        Examples with one number in `groups` were kept together by the split, as those tested on are: what is judged by
        leaving some out must leave out all of a group.
        """
        return False

    def metrics(self) -> dict[str, Metric]:
        """The scores of the final report over the table of predictions (greater is better, or named `*_error`)."""
        return {}

    def charts(self, views: Mapping[str, pd.DataFrame]) -> Sequence[Chart]:
        """Plots of its own for the report, from the table of each model; the evaluated one comes first as `model`."""
        return ()


class Baseline(Component):
    """A model that a domain expert would try first, fitted on the same rows, set beside every score."""

    kind: ClassVar[str] = "baseline"

    @abstractmethod
    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn from the train examples. `head` is fitted and knows the labels."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """One row an example, of the form that the head gives."""
        raise NotImplementedError


_LATER = {
    "Classification": "heads.classification", "Documents": "adapters.documents", "Hierarchy": "heads.hierarchy",
    "MultiLabel": "heads.multilabel", "Ranking": "heads.ranking", "Regression": "heads.regression",
    "Risk": "heads.risk", "Risky": "heads.risk", "SegmentLabels": "heads.segments", "Seq2Seq": "heads.seq2seq",
    "Tagging": "heads.tagging", "split_sentences": "adapters.documents",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # Generic components come in by the door themselves, so they are reached when asked for.
    if name in _LATER:
        return getattr(import_module(f"heliostat.{_LATER[name]}"), name)
    raise AttributeError(f"module 'heliostat.plugin' has no attribute '{name}'")
