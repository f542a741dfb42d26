"""The parts of sequence to sequence without a model: attention, dropout, the loss, search, metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from heliostat.encoders.dropout import dropout
from heliostat.encoders.grouped_attention import attend, pairing
from heliostat.heads.search import Bounds, beam_search, greedy
from heliostat.heads.seq2seq_metrics import Bleu, ChrF
from heliostat.heads.smoothed import smoothed_sums


def plain(query: Tensor, source: Tensor, lengths: tuple[int, ...], others: tuple[int, ...], causal: bool) -> Tensor:
    """Attention of each example alone, by torch."""
    parts = source.chunk(source.shape[1] // (query.shape[1] if source is not query else query.shape[1] // 3), -1)
    first = parts[0] if source is query else query
    found = []
    for q, k, v in zip(first.split(lengths), parts[-2].split(others), parts[-1].split(others), strict=True):
        heads = [each.view(len(each), 2, -1).transpose(0, 1) for each in (q, k, v)]
        found.append(F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(0, 1).flatten(1))
    return torch.cat(found)


@pytest.mark.parametrize("causal", [False, True])
def test_a_text_attends_to_itself_and_to_no_other(causal: bool) -> None:
    lengths = (3, 1, 17, 5, 5, 2, 9, 30)
    states = torch.randn(sum(lengths), 24, requires_grad=True)
    ours = attend((states,), pairing(lengths, None, 2, states.device, causal=causal))
    theirs = plain(states, states, lengths, lengths, causal)
    weight = torch.randn_like(ours)
    assert torch.allclose(ours, theirs, atol=1e-5)
    grads = [torch.autograd.grad((each * weight).sum(), states)[0] for each in (ours, theirs)]
    assert torch.allclose(*grads, atol=1e-5)


def test_attention_to_sources_of_other_lengths() -> None:
    lengths, others = (4, 1, 12), (2, 7, 5)
    query, source = torch.randn(17, 8, requires_grad=True), torch.randn(14, 16, requires_grad=True)
    ours = attend((query, source), pairing(lengths, others, 2, query.device))
    theirs = plain(query, source, lengths, others, False)
    weight = torch.randn_like(ours)
    assert torch.allclose(ours, theirs, atol=1e-5)
    grads = [torch.autograd.grad((each * weight).sum(), (query, source)) for each in (ours, theirs)]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*grads, strict=True))


def test_dropout_keeps_the_mean_and_repeats_with_its_seed() -> None:
    ones = torch.ones(400, 256)
    torch.manual_seed(3)
    dropped = dropout(ones, 0.25, True)
    torch.manual_seed(3)
    assert torch.equal(dropped, dropout(ones, 0.25, True))
    assert abs(float(dropped.mean()) - 1.0) < 0.01
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropout(ones, 0.25, False) is ones


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_smoothed_loss_and_its_gradients_are_those_of_torch(smoothing: float) -> None:
    states, table = torch.randn(700, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(0, 50, (700,))
    ours = smoothed_sums(states, table, targets, smoothing)
    logits = states @ table.t()
    theirs = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    assert torch.allclose(ours.loss, theirs)
    assert torch.allclose(ours.likelihood, F.cross_entropy(logits, targets, reduction="sum"))
    assert int(ours.hits) == int((logits.argmax(-1) == targets).sum())
    grads = [torch.autograd.grad(each, (states, table)) for each in (ours.loss, theirs)]
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*grads, strict=True))


class Chain:
    """A decoder whose next token depends on the last one only: a table of probabilities."""

    def __init__(self, table: list[list[float]], texts: int) -> None:
        self.table, self.texts = torch.tensor(table), texts

    def step(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == self.texts
        return self.table[tokens].log()

    def keep(self, rows: Tensor) -> None:
        self.texts = len(rows)


# Tokens: 0 start, 1 end, 2 and 3 words. The best first token (2) leads to worse texts than the second one (3).
TABLE = [[0.0, 0.0, 0.6, 0.4], [0.25] * 4, [0.0, 0.3, 0.3, 0.4], [0.0, 0.9, 0.05, 0.05]]


def test_greedy_takes_the_best_token_and_beam_search_finds_the_better_text() -> None:
    bounds = Bounds(0, 1, (), (6, 6))
    device = torch.device("cpu")
    assert greedy(Chain(TABLE, 2), bounds, device) == [[2, 3], [2, 3]]
    found = beam_search(Chain(TABLE, 2), bounds, device, beams=3, length_penalty=0.0)
    assert found[0] == found[1]
    assert found[0][0].ids == [3]
    assert found[0][0].score == pytest.approx(np.log(0.4 * 0.9), abs=1e-5)
    assert [text.score for text in found[0]] == sorted((text.score for text in found[0]), reverse=True)


def test_one_beam_is_greedy_and_limits_end_a_text() -> None:
    device = torch.device("cpu")
    bounds = Bounds(0, 1, (), (1, 6))
    (cut,), (whole,) = beam_search(Chain(TABLE, 2), bounds, device, beams=1, length_penalty=1.0)
    assert (cut.ids, whole.ids) == ([2], [2, 3])
    assert greedy(Chain(TABLE, 2), bounds, device) == [[2], [2, 3]]


def test_what_is_forbidden_is_not_written() -> None:
    found = beam_search(Chain(TABLE, 1), Bounds(0, 1, (3,), (4,)), torch.device("cpu"), beams=2, length_penalty=1.0)
    assert all(3 not in text.ids for text in found[0])
    assert all(text.ids for text in found[0])


def table_of(answers: list[str], targets: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"answer": answers, "target_answer": targets})


def test_bleu_and_chrf_are_those_of_sacrebleu_on_any_resample() -> None:
    from sacrebleu import corpus_bleu, corpus_chrf

    answers = ["The cat sat on the mat today.", "A dog ran over it.", "Nothing is the same as it was."]
    targets = ["The cat sat on a mat today.", "A dog ran far over it.", "Nothing is as it was before."]
    table, drawn = table_of(answers, targets), np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    for metric, theirs in ((Bleu(), corpus_bleu), (ChrF(), corpus_chrf)):
        whole = theirs(answers, [targets]).score
        twice = theirs([answers[k] for k in (0, 0, 2)], [[targets[k] for k in (0, 0, 2)]]).score
        assert metric(table) == pytest.approx(whole)
        assert metric.resampled(table, drawn).tolist() == pytest.approx([whole, twice])
    assert "tok:13a" in Bleu().signature
    assert "version:2." in ChrF().signature
