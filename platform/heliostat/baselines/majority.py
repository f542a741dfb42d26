"""The most frequent class of the train split, whatever is asked: the floor under every score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class MajorityBaseline(Baseline):
    """Answers every record with the most frequent class, and with each class's share of the train split."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Count the classes. Raises DataError for no examples, or examples that have no `label`."""
        seen = Counter(example.get("label") for example in examples)
        if not seen or None in seen:
            raise DataError("core.majority counts the field 'label' of the train examples, and there is none.")
        labels = getattr(head, "labels", None) or sorted(seen)
        self.shares = {label: seen[label] / seen.total() for label in labels}

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The same row for each example."""
        label = max(self.shares, key=self.shares.__getitem__)
        return [{"label": label, "probabilities": dict(self.shares)} for _ in examples]
