"""Adapters that are kept apart from their base answer over HTTP what their checkpoint answers in process."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.models import ModelStore
from heliostat.predict import Predictor, load
from heliostat.run import check
from heliostat.serve.app import build_app
from heliostat.serve.client import Client
from heliostat.serve.schema import Served
from heliostat.train.launch import train

pytest.importorskip("peft", reason="peft is an extra: pip install 'heliostat[peft]'")

ADALORA = {"type": "adalora", "rank": 2, "initial_rank": 4, "every": 2, "alpha": 16, "merge": False}
BOTTLENECK = {"type": "bottleneck", "size": 4}
QUESTIONS = [
    {"text": text} for text in ("the dress is lovely", "awful thin", "it was a very warm shirt and great", "is")
]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """120 made-up lines of two moods, and a home for what is made of them."""
    dice = random.Random(3)
    words = {"good": ["lovely", "great", "warm"], "bad": ["awful", "thin", "poor"]}
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    with path.open("w") as file:
        for number in range(120):
            label = dice.choice(["good", "bad"])
            line = dice.choices([*words[label], "the", "dress", "is", "a", "very", "shirt"], k=dice.randint(3, 20))
            file.write(json.dumps({"text": f"{' '.join(line)} {number}", "label": label}) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield path


def trained(reviews: Path, name: str, encoder: dict[str, Any], **settings: Any) -> Path:
    """The best checkpoint of a short run."""
    values = {
        "name": name,
        "data": {
            "adapter": "core.columns",
            "source": str(reviews),
            "split": {"valid": 0.2, "test": 0.1},
            "engine": "local",
        },
        "encoder": {"type": "core.text", **encoder},
        "head": {"type": "core.classification"},
        "train": {"epochs": 1, "tokens_per_batch": 256, "seed": 5, "lr": 0.1, "precision": "fp32", **settings},
    }
    return train(check(values)).checkpoint


@pytest.fixture(scope="module")
def base(reviews: Path) -> Path:
    """A small encoder that has been trained: what adapters stand on."""
    return trained(reviews, "base", {"preset": "tiny", "vocab_size": 300}, lr=5e-3) / "encoder"


@contextmanager
def served(predictor: Predictor, name: str) -> Iterator[Client]:
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(build_app(predictor, Served(name, 1)), log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.02)
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            yield client
        server.should_exit = True
        thread.join(timeout=30)


@pytest.mark.parametrize("adapter", [ADALORA, BOTTLENECK], ids=["adalora", "bottleneck"])
def test_a_stored_adapter_answers_over_http_what_it_answers_in_process(
    reviews: Path, base: Path, adapter: dict[str, Any]
) -> None:
    name = str(adapter["type"])
    made = trained(reviews, name, {"pretrained": str(base), "adapter": adapter}, epochs=4)
    stored = ModelStore().add(name, made, run_id="r", data_key="k", scores={})
    assert (stored.folder / "encoder" / "adapter_base.json").is_file()
    assert not (stored.folder / "encoder" / "model.safetensors").exists(), "it holds a base of its own"
    assert checkpoint.load(stored.folder).model.encoder.adapter is not None, "it was merged"
    expected = Predictor.load(made).predict(QUESTIONS)
    predictor = load(name)
    predictor.check_golden()
    with served(predictor, name) as client:
        assert client.predict(name, QUESTIONS) == expected
    assert max(_without_adapter(made, expected)) > 0.01, "it has learned nothing, so that equal answers say nothing"


def _without_adapter(made: Path, expected: list[dict[str, Any]]) -> list[float]:
    """How far each answer lies from the one that the base gives under the same head."""
    import torch

    predictor = Predictor.load(made)
    with torch.no_grad():
        for name, weight in predictor.model.encoder.named_parameters():
            if "lora_B" in name or ".up." in name:
                weight.zero_()
    bare = predictor.predict(QUESTIONS)
    return [abs(a["probabilities"]["good"] - b["probabilities"]["good"]) for a, b in zip(bare, expected, strict=True)]
