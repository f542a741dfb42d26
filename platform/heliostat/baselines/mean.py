"""The mean of the train split, whatever is asked: the floor under every score of a regression."""

from __future__ import annotations

from collections.abc import Sequence

from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class MeanBaseline(Baseline):
    """Answers every record with the mean target of the train split."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Take the mean. Raises DataError for no examples, or examples that have no number `value`."""
        values = numbers(examples, "core.mean")
        self.mean = sum(values) / len(values)

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The same row for each example."""
        return [{"value": self.mean} for _ in examples]


def numbers(examples: Sequence[Row], address: str) -> list[float]:
    """The `value` of each example. Raises DataError, in the name of a baseline, where one is missing or no number."""
    try:
        values = [float(example["value"]) for example in examples]
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{address} reads the number 'value' of the train examples, and one has none.") from None
    if not values:
        raise DataError(f"{address} has no train examples to learn from.")
    return values
