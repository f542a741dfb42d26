"""LitServe's service for serve.py. Runs in the peers' environment; its processes import it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve

from serve_peer import Classifier


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The classifier, with the texts of several requests together."""

    def __init__(self, folder: Path, **batching: Any) -> None:
        super().__init__(**batching)
        self.folder = folder

    def setup(self, device: str) -> None:
        self.classify = Classifier(self.folder)

    def decode_request(self, request: dict[str, str]) -> str:
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> list[dict[str, float]]:
        return self.classify(texts)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        return output
