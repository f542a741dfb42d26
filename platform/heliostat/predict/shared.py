"""Several models that stand on one pretrained encoder: it reads what all of them are asked in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from heliostat.batch import Encoded
from heliostat.component import Row
from heliostat.errors import CheckpointError, PredictError
from heliostat.predict.predictor import Precision, Predictor, length_of

if TYPE_CHECKING:
    from heliostat.encoders.shared import SharedText


class SharedPredictors:
    """Predictors whose models share an encoder, each with its own adapter and head. Not thread-safe."""

    def __init__(self, predictors: Sequence[Predictor], shared: SharedText) -> None:
        self.predictors = tuple(predictors)
        """One a model. Each answers by itself, too."""
        self._shared = shared

    @classmethod
    def load(cls, folders: Sequence[Path], *, threads: int | None = None, precision: Precision = "fp32") -> Self:
        """Read and verify checkpoints as `Predictor.load` does; the weights of their base are in memory once.

        Raises CheckpointError, too, for a model that cannot share with the first: its base is another, its adapter is
        none of low rank, its encoder is none of `core.text`, or it writes its answers piece by piece.
        """
        from heliostat.encoders.shared import SharedText

        shared = SharedText(is_bf16=precision == "bf16")
        found: list[Predictor] = []
        for folder in folders:
            predictor = Predictor.load(folder, threads=threads, precision=precision)
            try:
                if predictor.head.streams:
                    raise CheckpointError("it writes its answers piece by piece.")
                predictor.model.encoder = shared.join(predictor.model.encoder)
            except CheckpointError as error:
                beside = f" with {found[0].run.name}" if found else ""
                raise CheckpointError(f"{predictor.run.name} cannot share an encoder{beside}: {error}") from None
            found.append(predictor)
        shared.complete()
        return cls(found, shared)

    def predict(self, asked: Sequence[tuple[int, Sequence[Row]]], *, max_tokens: int = 8192) -> list[list[Row]]:
        """For each (model, examples) its predictions, in order; otherwise as `Predictor.predict`.

        `model` is a place in `predictors`.
        """
        import torch

        from heliostat.data.plan import micro_batches

        encoded = [[(model, each) for each in own] for (model, _), own in zip(asked, self._encoded(asked), strict=True)]
        flat = [each for rows in encoded for each in rows]
        lengths = np.array([length_of(each) for _, each in flat], dtype=np.int32)
        done: dict[int, Row] = {}
        with torch.inference_mode(), self.predictors[0].autocast():
            for rows in micro_batches(np.argsort(-lengths, kind="stable"), lengths, max_tokens):
                done |= self._answered({int(row): flat[row] for row in rows})
        answers = iter([done[row] for row in range(len(flat))])
        return [[next(answers) for _ in rows] for rows in encoded]

    def _encoded(self, asked: Sequence[tuple[int, Sequence[Row]]]) -> list[list[Encoded]]:
        """What each request's examples are to its model; the examples of a model are encoded together."""
        examples: dict[int, list[Row]] = {}
        for model, rows in asked:
            examples.setdefault(model, []).extend(rows)
        try:
            encoded = {model: iter(self.predictors[model].encoded(rows)) for model, rows in examples.items()}
        except PredictError:  # whose places are to be those within a request
            return [self.predictors[model].encoded(rows) for model, rows in asked]
        return [[next(encoded[model]) for _ in rows] for model, rows in asked]

    def _answered(self, encoded: Mapping[int, tuple[int, Encoded]]) -> dict[int, Row]:
        """Place -> prediction, of one pass."""
        from heliostat.data.collate import collate
        from heliostat.encoders.shared import Part

        places: dict[int, list[int]] = {}
        for place, (model, _) in encoded.items():
            places.setdefault(model, []).append(place)
        parts = []
        for model, own in places.items():
            batch = collate([encoded[place][1] for place in own], np.zeros(len(own), dtype=np.uint64))
            parts.append(Part(model, batch.to(self.predictors[model].device)))
        done: dict[int, Row] = {}
        for part, features in zip(parts, self._shared.read(parts), strict=True):
            answers = self.predictors[part.model].answers(features, part.batch)
            done |= dict(zip(places[part.model], answers, strict=True))
        return done
