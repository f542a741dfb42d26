"""Models that share one base answer in one pass what each of them answers by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.data.collate import collate
from heliostat.encoders.shared import JoinedText, Part, SharedText
from heliostat.encoders.text import PAIR_START
from heliostat.errors import CheckpointError, PredictError
from heliostat.predict import Predictor, SharedPredictors

pytest.importorskip("peft", reason="peft is an extra: pip install 'heliostat[peft]'")

WORDS = ("the", "sun", "is", "a", "very", "table", "lovely", "legs", "warm", "rain", "keys", "poor")
ALL = ["query", "key", "value", "dense"]
MOODS, TOPICS = ("glad", "sad"), ("home", "sea", "town")
MEMBERS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "mood": (MOODS, {"adapter": {"type": "lora", "rank": 2}}),
    "topic": (TOPICS, {"adapter": {"type": "lora", "rank": 5, "alpha": 10, "targets": ALL}}),
    "ranked": (TOPICS, {"adapter": {"type": "adalora", "rank": 2, "initial_rank": 3, "targets": ["value"]}}),
    "first": (
        MOODS,
        {"adapter": {"type": "lora", "rank": 3, "targets": ["key"]}, "pooling": "first", "max_tokens": 12},
    ),
    "plain": (MOODS, {}),
}
"""Different ranks, targets, labels, poolings and lengths; the last one has the base as it is."""
Made = Callable[..., Path]


@pytest.fixture(scope="module")
def members(on_tiny: Made) -> dict[str, Path]:
    found = enumerate(MEMBERS.items())
    return {name: on_tiny(name, labels, seed, **encoder) for seed, (name, (labels, encoder)) in found}


def text(dice: random.Random) -> str:
    return " ".join(dice.choices(WORDS, k=dice.randint(3, 25)))


def asked(count: int, seed: int = 0) -> list[tuple[int, list[dict[str, Any]]]]:
    """A mixed stream: requests of one to three texts, of models in no order."""
    dice = random.Random(seed)
    models = [dice.randrange(len(MEMBERS)) for _ in range(count)]
    return [(model, [{"text": text(dice)} for _ in range(dice.randint(1, 3))]) for model in models]


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-5), ("bf16", 0.04)])
def test_a_mixed_batch_is_answered_as_each_model_answers_alone(
    members: dict[str, Path], precision: Any, apart: float
) -> None:
    alone = [Predictor.load(folder, threads=1, precision=precision) for folder in members.values()]
    bare = Predictor.load(members["plain"], threads=1).predict([{"text": "a very thin dress"}])
    together = SharedPredictors.load(list(members.values()), threads=1, precision=precision)
    questions = asked(30)
    answers = together.predict(questions)
    for (model, rows), found in zip(questions, answers, strict=True):
        expected = alone[model].predict(rows)
        assert len(found) == len(rows)
        for one, other in zip(expected, found, strict=True):
            assert set(one["probabilities"]) == set(other["probabilities"])
            differences = [abs(one["probabilities"][label] - p) for label, p in other["probabilities"].items()]
            assert max(differences) <= apart
            second, first = sorted(one["probabilities"].values())[-2:]
            if first - second > 2 * apart:
                assert one["label"] == other["label"]
    mood = together.predictors[0].predict([{"text": "a very thin dress"}])
    assert abs(mood[0]["probabilities"]["glad"] - bare[0]["probabilities"]["glad"]) > 0.001, "no adapter did anything"


def test_each_model_still_answers_and_embeds_by_itself(members: dict[str, Path]) -> None:
    together = SharedPredictors.load(list(members.values()), threads=1)
    rows = [{"text": "a very thin dress"}, {"text": "lovely"}]
    for own, folder in zip(together.predictors, members.values(), strict=True):
        alone = Predictor.load(folder, threads=1)
        assert own.check_golden().max_difference < 1e-5
        for one, other in zip(alone.embed(rows), own.embed(rows), strict=True):
            assert np.allclose(one["vector"], other["vector"], atol=1e-5)
            assert one["tokens"] == other["tokens"]


def test_the_base_is_in_memory_once(members: dict[str, Path]) -> None:
    together = SharedPredictors.load(list(members.values()), threads=1, precision="bf16")
    joined = together.predictors[0].model.encoder
    assert isinstance(joined, JoinedText)
    assert len(joined.shared.modules) == len(members)
    assert len({id(module.transformer) for module in joined.shared.modules}) == 1
    assert all(module.adapter is None for module in joined.shared.modules)


def test_a_bad_record_names_its_place_within_its_own_request(members: dict[str, Path]) -> None:
    together = SharedPredictors.load([members["mood"], members["plain"]], threads=1)
    with pytest.raises(PredictError) as caught:
        together.predict([(0, [{"text": "fine"}]), (1, [{"text": "fine"}, {"txt": "fine"}])])
    assert caught.value.problems[0].index == 1


def test_pairs_and_texts_go_through_one_pass(members: dict[str, Path]) -> None:
    alone = [Predictor.load(members[name], threads=1).model.encoder for name in ("topic", "plain")]
    ids = [np.arange(5, 5 + size, dtype=np.int32) for size in (9, 4, 6)]
    pairs = collate([{"input_ids": each, PAIR_START: 3} for each in ids], np.zeros(3, dtype=np.uint64))
    texts = collate([{"input_ids": each} for each in ids[:2]], np.zeros(2, dtype=np.uint64))
    with torch.inference_mode():
        expected = [module(batch).states for module, batch in zip(alone, (pairs, texts), strict=True)]
        shared = SharedText(is_bf16=False)
        for name in ("topic", "plain"):
            shared.join(Predictor.load(members[name], threads=1).model.encoder)
        found = shared.read([Part(0, pairs), Part(1, texts)])
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other.states, atol=1e-5)


def test_what_cannot_share_is_refused(
    on_tiny: Made, members: dict[str, Path], other_checkpoint: Path, tiny_writer: Path
) -> None:
    narrow = on_tiny("narrow", MOODS, 8, adapter={"type": "bottleneck", "size": 4})
    for made, sentence in (
        (narrow, "narrow cannot share an encoder with mood: its adapter is a bottleneck"),
        (other_checkpoint, "mood cannot share an encoder with mood: its base has other weights, as embeddings"),
        (tiny_writer, "writer cannot share an encoder with mood: it writes its answers piece by piece"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            SharedPredictors.load([members["mood"], made], threads=1)
