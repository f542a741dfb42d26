"""The tag that each word had most often: what a dictionary knows of a text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class FrequentTagsBaseline(Baseline):
    """Each word's most frequent tag in the train split; the most frequent tag of all for a word that is new."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Count. Raises DataError for examples without `words` and `tags`."""
        seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for example in examples:
            if "words" not in example or "tags" not in example:
                raise DataError("core.frequent_tags reads 'words' and 'tags' of the train examples; one lacks them.")
            for word, tag in zip(example["words"], example["tags"], strict=True):
                seen[word][tag] += 1
        if not seen:
            raise DataError("core.frequent_tags finds no word in the train examples.")
        total = sum(seen.values(), Counter[str]())
        self.usual = total.most_common(1)[0][0]
        self.tags = {word: tags.most_common(1)[0] for word, tags in seen.items()}
        self.shares = {word: self.tags[word][1] / tags.total() for word, tags in seen.items()}

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """One tag a word."""
        return [
            {
                "tags": [self.tags[word][0] if word in self.tags else self.usual for word in example["words"]],
                "confidences": [self.shares.get(word, 0.0) for word in example["words"]],
            }
            for example in examples
        ]
