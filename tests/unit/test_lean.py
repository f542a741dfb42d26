"""BERT's layers for answers alone: the numbers of transformers' own up to bf16, and nothing changed beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, DistilBertConfig, RobertaConfig

from heliostat.batch import Batch, Ragged
from heliostat.encoders import products
from heliostat.encoders.attention import UNPADDED
from heliostat.encoders.products import cheapen_products
from heliostat.encoders.text import PAIR_START
from heliostat.encoders.text_module import TextModule, lighten

pytestmark = pytest.mark.skipif(not products._has_bf16_products(), reason="oneDNN multiplies no bf16 on this machine")
SIZE = {"vocab_size": 211, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}


def module_of(config: BertConfig | DistilBertConfig) -> TextModule:
    torch.manual_seed(3)
    module = TextModule(AutoModel.from_config(config, attn_implementation=UNPADDED), "mean")
    cheapen_products(module)
    return module.eval().requires_grad_(False)


def batch_of(lengths: tuple[int, ...], *, pairs: bool = False) -> Batch:
    rng = np.random.default_rng(5)
    values = torch.from_numpy(rng.integers(5, 211, sum(lengths)))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    columns = {"input_ids": Ragged(values, offsets, lengths)}
    starts = {PAIR_START: torch.tensor([length // 2 for length in lengths])} if pairs else {}
    return Batch(np.arange(len(lengths), dtype=np.uint64), {**columns, **starts})


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("lengths", [(9,), (12, 5, 5, 30), (1, 64)])
def test_states_are_those_of_the_model_in_bf16(lengths: tuple[int, ...], pairs: bool) -> None:
    module, batch = module_of(BertConfig(**SIZE, num_hidden_layers=3)), batch_of(lengths, pairs=pairs)
    with torch.inference_mode():
        exact = module(batch).states
        with torch.autocast("cpu", torch.bfloat16):
            before = module(batch).states
        lighten(module)
        assert module.lean is not None
        with torch.autocast("cpu", torch.bfloat16):
            lean = module(batch).states
        assert torch.equal(module(batch).states, exact), "fp32 goes the model's own way"
    assert lean.dtype == before.dtype == torch.float32
    assert (lean - exact).abs().max() <= 1.2 * (before - exact).abs().max() + 0.01


def test_types_of_pairs_count() -> None:
    module = module_of(BertConfig(**SIZE, num_hidden_layers=2))
    lighten(module)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        alone, pair = (module(batch_of((12,), pairs=pairs)).states for pairs in (False, True))
    assert (alone[6:] - pair[6:]).abs().max() > 0.05


@pytest.mark.parametrize(
    "config",
    [
        DistilBertConfig(vocab_size=211, dim=64, n_heads=4, hidden_dim=128, n_layers=2),
        RobertaConfig(**SIZE, num_hidden_layers=2),
        BertConfig(**SIZE, num_hidden_layers=2, hidden_act="relu"),
    ],
)
def test_other_models_go_their_own_way(config: BertConfig) -> None:
    module, batch = module_of(config), batch_of((12, 5))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = module(batch).states
        lighten(module)
        assert module.lean is None
        assert torch.equal(module(batch).states, before)


def test_a_model_of_few_places_is_tried_on_texts_that_it_can_hold() -> None:
    module = module_of(BertConfig(**SIZE, num_hidden_layers=2, max_position_embeddings=8))
    lighten(module)
    assert module.lean is not None
