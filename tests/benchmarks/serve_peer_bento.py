"""BentoML's service for serve.py, with adaptive batching. Runs in the peers' environment: `bentoml serve`."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml

from serve_peer import Classifier


@bentoml.service(workers=int(os.environ.get("WORKERS", "1")), traffic={"timeout": 60})
class Reviews:
    """The classifier, with the texts of several requests together."""

    def __init__(self) -> None:
        self.classify = Classifier(Path(os.environ["CHECKPOINT"]))

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True,
        max_batch_size=int(os.environ.get("BATCH", "32")),
        max_latency_ms=int(os.environ.get("LATENCY_MS", "10000")),
    )
    def predict(self, texts: list[str]) -> list[dict[str, float]]:
        """The probability of each label, a text."""
        return self.classify(texts)
