"""Texts that are read together: what the encoder lays end to end, and a label for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heliostat.batch import Batch
from heliostat.data.collate import collate
from heliostat.encoders.segments import SegmentsEncoder, fitted
from heliostat.errors import DataError, RunError
from heliostat.heads.segments import SegmentLabels
from heliostat.model import build_model

EXAMPLES: list[dict[str, Any]] = [
    {"texts": ["one two three", "four", "five six"], "labels": ["a", "b", "a"]},
    {"texts": ["four five"], "labels": ["b"]},
    {"texts": ["six", "one one one one two"], "labels": ["b", "a"]},
]


@pytest.fixture(scope="module")
def encoder() -> SegmentsEncoder:
    torch.manual_seed(1)
    made = SegmentsEncoder(SegmentsEncoder.Config(preset="tiny", max_tokens=32))
    made.fit(EXAMPLES)
    return made


def head() -> SegmentLabels:
    made = SegmentLabels(SegmentLabels.Config(labels=("a", "b"), dropout=0.0))
    made.fit(EXAMPLES)
    return made


def batch_of(encoder: SegmentsEncoder, examples: Sequence[dict[str, Any]]) -> Batch:
    targets = head().encode(examples, encoder.spec())
    encoded = [{**one, **target} for one, target in zip(encoder.encode(examples), targets, strict=True)]
    return collate(encoded, np.arange(len(examples), dtype=np.uint64))


def test_texts_stand_end_to_end_with_a_mark_behind_each(encoder: SegmentsEncoder) -> None:
    (row,) = encoder.encode(EXAMPLES[:1])
    ids, counts = row["input_ids"], row["segments"]
    assert isinstance(ids, np.ndarray)
    assert isinstance(counts, np.ndarray)
    assert len(ids) == 1 + counts.sum()
    assert ids[0] == 1
    assert list(ids[np.cumsum(counts)]) == [2, 2, 2]


def test_a_text_has_the_same_tokens_wherever_it_stands(encoder: SegmentsEncoder) -> None:
    alone, among = encoder.encode([{"texts": ["four five"]}, {"texts": ["six", "four five"]}])
    assert isinstance(among["input_ids"], np.ndarray)
    assert list(among["input_ids"])[-len(list(alone["input_ids"])[1:]) :] == list(alone["input_ids"])[1:]  # type: ignore[arg-type]


def test_the_vector_of_a_text_is_the_mean_over_its_tokens(encoder: SegmentsEncoder) -> None:
    torch.manual_seed(2)
    module = encoder.module().eval()
    batch = batch_of(encoder, EXAMPLES)
    with torch.no_grad():
        features = module(batch)
    assert features.counts == (3, 1, 2)
    states = features.states.split(list(batch.ragged("input_ids").lengths))
    expected = []
    for example, lengths in zip(states, batch.ragged("segments").split(), strict=True):
        expected += [part.mean(0) for part in example[1:].split(lengths.tolist())]
    torch.testing.assert_close(features.segments, torch.stack(expected))


def test_the_answer_to_an_example_does_not_depend_on_its_batch(encoder: SegmentsEncoder) -> None:
    torch.manual_seed(3)
    model = build_model(encoder, head()).eval()
    with torch.no_grad():
        together = model.predict(batch_of(encoder, EXAMPLES))
        alone = [model.predict(batch_of(encoder, [example]))[0] for example in EXAMPLES]
    assert [row["labels"] for row in together] == [row["labels"] for row in alone]
    assert [len(row["labels"]) for row in together] == [3, 1, 2]


def test_a_text_is_read_in_the_light_of_its_neighbours(encoder: SegmentsEncoder) -> None:
    torch.manual_seed(4)
    module = encoder.module().eval()
    with torch.no_grad():
        one = module(batch_of(encoder, [{"texts": ["four", "one"], "labels": ["a", "a"]}])).segments[0]
        other = module(batch_of(encoder, [{"texts": ["four", "six"], "labels": ["a", "a"]}])).segments[0]
    assert not torch.allclose(one, other, atol=1e-5)


def test_loss_is_a_sum_over_texts(encoder: SegmentsEncoder) -> None:
    torch.manual_seed(5)
    model, batch = build_model(encoder, head()).eval(), batch_of(encoder, EXAMPLES)
    with torch.no_grad():
        whole = model(batch)["loss"]
        parts = sum(model(batch_of(encoder, [example]))["loss"] for example in EXAMPLES)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    assert head().counts(batch) == {"loss": 6.0}


@pytest.mark.parametrize(
    ("lengths", "room", "expected"),
    [
        ([3, 4], 10, [3, 4]),
        ([3, 4], 7, [3, 4]),
        ([10, 2, 10], 14, [6, 2, 6]),
        ([10, 2, 10], 15, [7, 2, 6]),
        ([9, 9, 9], 3, [1, 1, 1]),
        ([1, 100], 50, [1, 49]),
    ],
)
def test_the_longest_texts_are_cut_first(lengths: list[int], room: int, expected: list[int]) -> None:
    assert fitted(lengths, room) == expected


def test_what_is_too_long_is_cut_and_counted(encoder: SegmentsEncoder) -> None:
    before = encoder.truncated
    (row,) = encoder.encode([{"texts": ["one " * 100, "two"]}])
    assert len(row["input_ids"]) == 32  # type: ignore[arg-type]
    assert encoder.truncated == before + 1


@pytest.mark.parametrize(
    "texts", [[], "one", None, ["one", 2], ["one"] * 40], ids=["none", "a text", "missing", "a number", "too many"]
)
def test_lists_that_cannot_be_read_are_refused(encoder: SegmentsEncoder, texts: Any) -> None:
    with pytest.raises(DataError, match="texts"):
        encoder.encode([{"texts": texts}])


def test_labels_that_do_not_fit_are_refused(encoder: SegmentsEncoder) -> None:
    with pytest.raises(DataError, match="2 texts and 1 labels"):
        head().encode([{"texts": ["one", "two"], "labels": ["a"]}], encoder.spec())
    with pytest.raises(DataError, match="none of the classes"):
        head().encode([{"texts": ["one"], "labels": ["c"]}], encoder.spec())


def test_a_blank_has_no_effect_and_is_refused() -> None:
    from heliostat.run import check

    run = {"name": "x", "data": {"adapter": "core.columns", "source": "x.csv"}, "head": "core.segment_labels"}
    with pytest.raises(RunError, match="blank"):
        check({**run, "encoder": {"type": "core.segments", "preset": "tiny", "blank": "[MASK]"}})
    with pytest.raises(RunError, match="needs SegmentFeatures"):
        check({**run, "encoder": {"type": "core.text", "preset": "tiny"}})


def test_a_subclass_may_have_settings_of_its_own() -> None:
    class Mine(SegmentLabels):
        class Config(SegmentLabels.Config):
            mine: int = 3

    assert Mine(Mine.Config(labels=("a", "b"), mine=4)).labels == ("a", "b")


def test_scores_draw_whole_examples_and_count_texts() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 5, 40)
    truth = [list(rng.choice(["a", "b"], size)) for size in sizes]
    given = [[label if rng.random() < 0.7 else "a" for label in labels] for labels in truth]
    shares = [[{"a": 0.6, "b": 0.4} if label == "a" else {"a": 0.3, "b": 0.7} for label in row] for row in given]
    table = pd.DataFrame({"target_labels": truth, "labels": given, "probabilities": shares})
    counts = rng.integers(0, 3, (5, len(table))).astype(np.float64)
    for name, metric in head().metrics().items():
        drawn = [table.loc[np.repeat(np.arange(len(table)), row.astype(int))].reset_index(drop=True) for row in counts]
        expected = [metric(one) for one in drawn]
        np.testing.assert_allclose(metric.resampled(table, counts), expected, rtol=1e-9, err_msg=name)  # type: ignore[attr-defined]


def test_the_baseline_answers_each_text() -> None:
    from heliostat.baselines.tfidf_segments import TfidfSegmentsBaseline

    baseline = TfidfSegmentsBaseline()
    baseline.fit(EXAMPLES, head())
    answers = baseline.predict([{"texts": ["one two", "four"]}])
    assert [len(row["labels"]) for row in answers] == [2]
    assert answers[0]["labels"] == ["a", "b"]


def test_a_linear_model_beside_it_is_refused() -> None:
    with pytest.raises(ValueError, match="lexical has no effect beside a list of texts: leave it out"):
        SegmentLabels.Config.model_validate({"lexical": {"weight": 1.0}})
