"""An encoder and a head, fitted, as one torch module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.encoders.dropout import cheapen_dropout
from heliostat.encoders.products import cheapen_products
from heliostat.errors import HeliostatError
from heliostat.plugin import Encoder, EncoderModule, HeadModule, MeasuringModule, StreamingModule, TaskHead


class Validated(NamedTuple):
    """What one pass over a batch with targets gives."""

    losses: dict[str, Tensor]
    """The sum of each loss term: scalars."""
    measures: dict[str, Tensor]
    """Sums for the head's scores, of a head whose module measures."""
    predictions: list[Row]


class Model(nn.Module):
    """Batch -> encoder -> features -> head. `forward` gives loss sums, so that any wrapper of torch can hold it."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of each loss term over the batch: scalars."""
        features = cast(EncoderModule, self.encoder)(batch)
        return cast(HeadModule, self.head).loss(features, batch)

    def predict(self, batch: Batch) -> list[Row]:
        """One plain row an example."""
        features = cast(EncoderModule, self.encoder)(batch)
        return cast(HeadModule, self.head).predict(features, batch)

    def stream(self, batch: Batch) -> Iterator[str | Row]:
        """Pieces of the answer to the one example of the batch, and last its row. Raises HeliostatError for a head that
        gives its answers whole."""
        if not isinstance(self.head, StreamingModule):
            raise HeliostatError(f"{type(self.head).__name__} gives its answers whole: it has no method 'stream'.")
        features = cast(EncoderModule, self.encoder)(batch)
        yield from self.head.stream(features, batch)

    def validate(self, batch: Batch, *, predict: bool) -> Validated:
        """Loss sums, what the head measures and, if asked for, predictions, from one pass of the encoder."""
        features = cast(EncoderModule, self.encoder)(batch)
        head = cast(HeadModule, self.head)
        predictions = head.predict(features, batch) if predict else []
        if isinstance(head, MeasuringModule):
            return Validated(*head.measure(features, batch), predictions)
        return Validated(head.loss(features, batch), {}, predictions)


def build_model(encoder: Encoder, head: TaskHead) -> Model:
    """A fresh model from fitted components."""
    model = Model(encoder.module(), head.module(encoder.spec()))
    cheapen_dropout(model)
    cheapen_products(model)
    return model


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return count_parameters(model)[0]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers in the model that training changes, and all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)
