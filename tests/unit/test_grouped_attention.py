"""Attention in groups of similar lengths, dropout by random bits: values and gradients are those of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heliostat.encoders.dropout import Dropout, cheapen_dropout, draw_mask, dropout
from heliostat.encoders.grouped_attention import attend, pairing

LENGTHS = (3, 1, 6, 6, 2)
HEADS, WIDTH = 2, 3


def split_states(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(sum(LENGTHS), HEADS * WIDTH, dtype=dtype, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
def test_tokens_reach_those_of_their_example_within_the_window(causal: bool, window: int | None) -> None:
    query, key, value = split_states()
    pairs = pairing(LENGTHS, None, HEADS, query.device, causal=causal, window=window, is_split=True)
    ours = attend((query, key, value), pairs, scale=0.7)
    parts = zip(*(states.split(LENGTHS) for states in (query, key, value)), strict=True)
    for mine, (q, k, v) in zip(ours.split(LENGTHS), parts, strict=True):
        places = torch.arange(len(q))
        distance = places[:, None] - places[None, :]
        hidden = (distance < 0) & causal | (distance.abs() >= (window or len(q)))
        scores = torch.einsum("lhd,shd->hls", *(each.view(-1, HEADS, WIDTH) for each in (q, k))) * 0.7
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        theirs = torch.einsum("hls,shd->lhd", weights, v.view(-1, HEADS, WIDTH)).flatten(1)
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_function_with_dropout_too(rate: float, causal: bool) -> None:
    states = split_states()
    pairs = pairing(LENGTHS, None, HEADS, states[0].device, causal=causal, is_split=True)

    def same_drops(*sources: Tensor) -> Tensor:
        torch.manual_seed(5)
        return attend(sources, pairs, dropout=rate)

    assert torch.autograd.gradcheck(same_drops, states)


def test_one_tensor_of_all_three_gives_what_three_give() -> None:
    states = split_states()
    together = torch.stack([each.view(-1, HEADS * WIDTH) for each in states], 1).flatten(1)
    apart = attend(states, pairing(LENGTHS, None, HEADS, together.device, is_split=True))
    assert torch.equal(apart, attend((together,), pairing(LENGTHS, None, HEADS, together.device)))


def test_dropped_weights_leave_the_expected_answer() -> None:
    query, key, value = (each.detach() for each in split_states())
    pairs = pairing(LENGTHS, None, HEADS, query.device, is_split=True)
    torch.manual_seed(2)
    answers = torch.stack([attend((query, key, value), pairs, dropout=0.2) for _ in range(4000)])
    assert torch.allclose(answers.mean(0), attend((query, key, value), pairs), atol=0.06)
    assert answers.std(0).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_share_it_should(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    ones = torch.ones(500, 401, dtype=dtype, requires_grad=True)
    dropped = dropout(ones, 0.1, True)
    share = float((dropped != 0).double().mean())
    assert abs(share - 0.9) < 0.003
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.9], rel=4e-3)
    (gradient,) = torch.autograd.grad(dropped.sum(), ones)
    assert torch.equal(gradient, dropped)


def test_masks_differ_from_call_to_call_and_along_both_dimensions() -> None:
    torch.manual_seed(3)
    first, second = (draw_mask(torch.Size([256, 256]), 0.5, torch.float32) != 0 for _ in range(2))
    agreement = [first == second, first[1:] == first[:-1], first[:, 1:] == first[:, :-1]]
    assert [float(each.double().mean()) for each in agreement] == pytest.approx([0.5] * 3, abs=0.01)


def test_a_pass_that_is_made_again_drops_the_same() -> None:
    torch.manual_seed(4)
    layer = nn.Sequential(nn.Linear(16, 16), Dropout(0.5), nn.Linear(16, 16))
    states = torch.randn(8, 16)
    gradients = []
    for run in (layer, lambda values: checkpoint(layer, values, use_reentrant=False)):
        torch.manual_seed(9)
        layer.zero_grad()
        run(states).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_model_keeps_the_names_of_its_weights_and_its_rates() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25))
    before = list(model.state_dict())
    cheapen_dropout(model)
    assert isinstance(model[1], Dropout)
    assert isinstance(model[1], nn.Dropout)
    assert model[1].p == 0.25
    assert list(model.state_dict()) == before
    assert np.array_equal(model.eval()(torch.ones(2, 4)).detach(), model[0](torch.ones(2, 4)).detach())


def test_a_mask_that_is_longer_than_the_pool_of_bits_drops_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliostat.encoders.dropout._POOL", 1000)
    torch.manual_seed(6)
    masks = [draw_mask(torch.Size([count]), 0.25, torch.float32) for count in (0, 1, 1000, 4321)]
    assert [len(each) for each in masks] == [0, 1, 1000, 4321]
    assert float((masks[-1] == 0).double().mean()) == pytest.approx(0.25, abs=0.05)


def test_one_long_text_does_not_stretch_the_short_ones_beside_it() -> None:
    lengths = (10,) * 766 + (512,)
    pairs = pairing(lengths, None, 1, torch.device("cpu"))
    padded = sum(group.batch * group.length * group.size for group in pairs.groups)
    assert padded <= 512**2 + 766 * 16**2
    assert len(pairs.groups) <= 7
    alike = pairing(tuple(range(40, 80)) * 3, None, 1, torch.device("cpu"))
    assert len(alike.groups) == 6, "where lengths are alike there are no more groups than before"


def test_attention_over_lengths_far_apart_is_that_of_each_text() -> None:
    torch.manual_seed(4)
    lengths = (3, 400, 1, 30, 2, 260, 5)
    states = torch.randn(sum(lengths), 3 * 8)
    ours = attend((states,), pairing(lengths, None, 2, states.device)).split(lengths)
    for mine, part in zip(ours, states.split(lengths), strict=True):
        query, key, value = part.view(len(part), 3, 2, 4).permute(1, 2, 0, 3).unbind(0)
        alone = nn.functional.scaled_dot_product_attention(query, key, value)
        assert torch.allclose(mine, alone.transpose(0, 1).flatten(1), atol=1e-5)
