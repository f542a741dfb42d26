"""Ray Serve as its documentation shows it: a deployment with a FastAPI ingress around our predictor, for serve.py.

python serve_plain.py PORT CHECKPOINT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Reviews:
    """The predictor behind one route."""

    def __init__(self, folder: str) -> None:
        from heliostat.predict import Predictor

        self.predictor = Predictor.load(Path(folder), threads=1, precision="bf16")

    @api.post("/predict")
    def predict(self, review: dict[str, str]) -> dict[str, Any]:
        """The probability of each label."""
        answer: dict[str, Any] = self.predictor.predict([{"text": review["text"]}])[0]["probabilities"]
        return answer


def main() -> None:
    ray.init(log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Reviews.bind(sys.argv[2]))  # type: ignore[attr-defined]
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
