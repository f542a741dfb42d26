"""What to try first where items are recommended: the popular ones, neighbours of an item, and EASE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from heliostat.component import Row, Settings
from heliostat.cooccurrence import cosine, ease, history_matrix, strongest
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Scores = npt.NDArray[np.float32]

_PORTION = 512
"""Histories that are scored at once."""


class _ItemBaseline(Baseline):
    """Scores every item of the train split for a history, and answers with the best that are not in it."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn from the train histories. Raises DataError where there is none."""
        self.k = int(getattr(head.config, "k", 10))
        self.exclude_seen = bool(getattr(head.config, "exclude_seen", True))
        histories = [example.get("history") for example in examples]
        if not any(histories):
            raise DataError(f"{type(self).__name__} reads the list 'history' of the train examples, and there is none.")
        self.names = sorted({item for history in histories for item in history or ()})
        self.index = {name: place for place, name in enumerate(self.names)}
        self.learn(self._matrix([history or [] for history in histories]))

    @abstractmethod
    def learn(self, histories: csr_matrix) -> None:
        """Learn from which items stand in each train history: [histories, items]."""
        raise NotImplementedError

    @abstractmethod
    def score(self, histories: csr_matrix) -> Scores:
        """A score for every item: [histories, items]."""
        raise NotImplementedError

    def _matrix(self, histories: Sequence[Sequence[str]]) -> csr_matrix:
        known = [[self.index[item] for item in history if item in self.index] for history in histories]
        return history_matrix(known, len(self.names))

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The best items of each history; equal ones by name."""
        answers: list[Row] = []
        for first in range(0, len(examples), _PORTION):
            matrix = self._matrix([example["history"] for example in examples[first : first + _PORTION]])
            answers += [_answer(self.names, row) for row in self._best(matrix)]
        return answers

    def _best(self, matrix: csr_matrix) -> list[list[tuple[int, float]]]:
        scores = np.array(self.score(matrix), dtype=np.float32)
        if self.exclude_seen:
            scores[matrix.nonzero()] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        values = np.take_along_axis(scores, order, 1)
        pairs = (zip(places, row, strict=True) for places, row in zip(order.tolist(), values.tolist(), strict=True))
        return [[(place, value) for place, value in row if np.isfinite(value)] for row in pairs]


def _answer(names: Sequence[str], row: Sequence[tuple[int, float]]) -> Row:
    nothing: list[Any] = [[] for _ in row]
    return {
        "items": [names[place] for place, _ in row],
        "scores": [value for _, value in row],
        "texts": ["" for _ in row],
        "because": nothing,
    }


class PopularBaseline(_ItemBaseline):
    """The items that most train histories hold, whatever is asked."""

    def learn(self, histories: csr_matrix) -> None:
        """Count the histories that hold each item."""
        self.counts = np.asarray(histories.sum(0), dtype=np.float32).ravel()

    def score(self, histories: csr_matrix) -> Scores:
        """The counts, for each."""
        return np.tile(self.counts, (histories.shape[0], 1))


class ItemKnnBaseline(_ItemBaseline):
    """The sum of cosines with the items of the history, over the nearest neighbours of each item."""

    class Config(Settings):
        """Settings of the neighbourhood."""

        neighbours: Annotated[int, Field(ge=1)] = 50
        """Nearest items that speak for an item."""

    def learn(self, histories: csr_matrix) -> None:
        """The nearest neighbours of each item, by the histories that hold both."""
        self.near = strongest(cosine(histories), self.config.neighbours).T.tocsr()

    def score(self, histories: csr_matrix) -> Scores:
        """The summed cosines."""
        scores: Scores = (histories @ self.near).toarray()
        return scores


class EaseBaseline(_ItemBaseline):
    """EASE (Steck 2019): a linear model of which items stand together, solved in closed form."""

    class Config(Settings):
        """Settings of the regression."""

        l2: Annotated[float, Field(gt=0.0)] = 200.0
        """Penalty of the weights."""

    def learn(self, histories: csr_matrix) -> None:
        """Solve for the weights. Raises DataError for more than 20,000 items."""
        self.weights = ease(histories, self.config.l2)

    def score(self, histories: csr_matrix) -> Scores:
        """The weighted sums."""
        scores: Scores = histories @ self.weights
        return scores
