"""What computes: the classification of the platform, with the pages that the head looked up beside its answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from heliostat.plugin import Batch, Row


class WithPages(nn.Module):
    """Another head's module; to each of its answers the field `pages` is added."""

    def __init__(self, inner: nn.Module, known: list[Row], columns: list[str]) -> None:
        super().__init__()
        self.inner, self.known, self.columns = inner, known, columns

    def loss(self, features: Any, batch: Batch) -> dict[str, Tensor]:
        """That of the classification."""
        found: dict[str, Tensor] = self.inner.loss(features, batch)  # type: ignore[operator]
        return found

    def predict(self, features: Any, batch: Batch) -> list[Row]:
        """The answer of the classification, and the rows whose places stand in the batch."""
        answers: list[Row] = self.inner.predict(features, batch)  # type: ignore[operator]
        places = [batch.dense(name).tolist() for name in self.columns]
        pages = [[self.known[at[row]] for at in places if at[row] >= 0] for row in range(len(answers))]
        return [{**answer, "pages": found} for answer, found in zip(answers, pages, strict=True)]
