"""An encoder and a head, fitted, as one torch module."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.plugin import Encoder, EncoderModule, HeadModule, TaskHead


class LossTerm(NamedTuple):
    """The part of one worker in a loss term: what is added up over all workers before dividing."""

    total: float
    count: float


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


def build_model(encoder: Encoder, head: TaskHead) -> Model:
    """A fresh model from fitted components."""
    return Model(encoder.module(), head.module(encoder.spec()))


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
