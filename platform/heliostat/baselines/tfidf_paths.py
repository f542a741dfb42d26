"""TF-IDF down a tree of classes: a regression for the top level, and one below each class that has several children."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from heliostat.baselines.tfidf import TermSettings, joined, terms, text_fields
from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead

Path = tuple[str, ...]


class TfidfPathsBaseline(Baseline):
    """Words (1-2) and characters within words (2-5), weighted by TF-IDF, into a logistic regression at each class."""

    class Config(TermSettings):
        """Settings of the terms and the regressions."""

        strength: Annotated[float, Field(gt=0.0)] = 2.0
        """The inverse of the L2 penalty (scikit-learn's C)."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn terms and weights. Raises DataError where there is no text or no path."""
        from sklearn.linear_model import LogisticRegression

        self.fields = text_fields(head, self.config.fields, "core.tfidf_paths")
        paths = [tuple(example.get("path") or ()) for example in examples]
        if not all(paths):
            raise DataError("core.tfidf_paths reads the list 'path' of the train examples, and one has none.")
        self.terms = terms(self.config, len(examples))
        texts = self.terms.fit_transform(joined(examples, self.fields))
        self.depth, self.models = len(paths[0]), dict[Path, Any]()
        below: dict[Path, list[int]] = defaultdict(list)
        for row, path in enumerate(paths):
            for place in range(self.depth):
                below[path[:place]].append(row)
        for node, rows in below.items():
            children = [paths[row][len(node)] for row in rows]
            only = len(set(children)) == 1
            model = LogisticRegression(C=self.config.strength, class_weight="balanced", max_iter=300)
            self.models[node] = children[0] if only else model.fit(texts[rows], children)

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The path of the most probable children, and the probability of each class of the top level."""
        if not examples:
            return []
        texts = self.terms.transform(joined(examples, self.fields))
        rows: list[Row] = [{"path": [], "confidences": [], "probabilities": {}, "choices": []} for _ in examples]
        for _ in range(self.depth):
            at: dict[Path, list[int]] = defaultdict(list)
            for place, row in enumerate(rows):
                at[tuple(row["path"])].append(place)
            for node, places in at.items():
                self._step(node, places, texts[places], rows)
        return rows

    def _step(self, node: Path, places: list[int], texts: Any, rows: list[Row]) -> None:
        """Take the answers that have come down to `node` one class further."""
        model = self.models[node]
        shares = [[1.0]] * len(places) if isinstance(model, str) else model.predict_proba(texts).tolist()
        labels = [model] if isinstance(model, str) else [str(label) for label in model.classes_]
        for place, each in zip(places, shares, strict=True):
            row, best = rows[place], max(range(len(each)), key=each.__getitem__)
            before = row["confidences"][-1] if row["confidences"] else 1.0
            row["path"] = [*row["path"], labels[best]]
            row["confidences"] = [*row["confidences"], before * each[best]]
            if not node:
                row["probabilities"] = dict(zip(labels, each, strict=True))
            row["choices"] = [*row["choices"], {labels[best]: before * each[best]}]
