"""What the modules of encoders and heads offer, whatever else they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import Features

if TYPE_CHECKING:
    from torch import Tensor


class EncoderModule(Protocol):
    """What an encoder's `module` returns: an `nn.Module` from a batch to features."""

    def __call__(self, batch: Batch) -> Features:
        """The features of a batch."""
        ...


class HeadModule(Protocol):
    """What a head's `module` returns: an `nn.Module` with a loss and an answer."""

    def loss(self, features: Any, batch: Batch) -> dict[str, Tensor]:
        """The *sum* of each loss term over the batch, as scalars; its counts come from `TaskHead.counts`."""
        ...

    def predict(self, features: Any, batch: Batch) -> list[Row]:
        """One plain row an example, with the fields of `TaskHead.gives`. The batch holds no targets here."""
        ...


@runtime_checkable
class MeasuringModule(Protocol):
    """What a head's `module` may offer where answers say too little for scores, as of a language model."""

    def measure(self, features: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What `loss` gives, and from the same pass the sums that `TaskHead.scores` reads."""
        ...


@runtime_checkable
class StreamingModule(Protocol):
    """What the `module` of a head that `streams` offers beside `predict`: an answer while it is being written."""

    def stream(self, features: Any, batch: Batch) -> Iterator[str | Row]:
        """Pieces of the text that answers the only example of `batch`, one a step of the search; last the whole row.

        The pieces, joined, are the text that the row holds.
        """
        ...
