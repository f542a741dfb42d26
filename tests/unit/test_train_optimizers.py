"""The optimisers: their groups and scales, their state, and what Muon does to a matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from heliostat.encoders.text import TextEncoder
from heliostat.errors import RunError
from heliostat.model import build_model
from heliostat.run import Run, check
from heliostat.run.settings import TrainSettings
from heliostat.train.muon import hidden_matrices
from heliostat.train.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors, set_lr

OPTIMIZERS: list[Any] = [
    "adamw",
    "sgd",
    {"type": "sgd", "momentum": 0.0},
    {"type": "sgd", "nesterov": True},
    "rmsprop",
    {"type": "rmsprop", "momentum": 0.9},
    "muon",
]


def settings(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate(values)


def run(**train: Any) -> Run:
    return check(
        {
            "name": "toy",
            "data": {"adapter": "core.columns", "source": "x.csv"},
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300},
            "head": {"type": "core.classification", "labels": ["a", "b"]},
            "train": train,
        }
    )


def model_of(checked: Run) -> tuple[TextEncoder, nn.Module]:
    torch.manual_seed(0)
    encoder, head = checked.encoder.build(), checked.head.build()
    examples = [{"text": f"some words {number}", "label": "ab"[number % 2]} for number in range(9)]
    encoder.fit(examples)
    head.fit(examples)
    return encoder, build_model(encoder, head)


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    inputs = torch.linspace(-1, 1, 32).view(8, 4)
    for step in range(count):
        set_lr(optimizer, 1e-2 / (1 + step))
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("chosen", OPTIMIZERS)
def test_state_goes_out_and_back_to_the_same_bits(chosen: Any) -> None:
    torch.manual_seed(0)
    twins = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)) for _ in range(2)]
    first, second = (build_optimizer(model, settings(optimizer=chosen)) for model in twins)
    _steps(twins[0], first, 3)
    _steps(twins[1], second, 1)  # a state that must give way
    twins[1].load_state_dict(twins[0].state_dict())
    load_optimizer_tensors(second, twins[1], optimizer_tensors(first, twins[0]))
    assert optimizer_tensors(second, twins[1]).keys() == optimizer_tensors(first, twins[0]).keys()
    before = twins[0][0].weight.detach().clone()
    for model, optimizer in zip(twins, (first, second), strict=True):
        _steps(model, optimizer, 2)
    assert not torch.equal(twins[0][0].weight, before)
    assert all(torch.equal(a, b) for a, b in zip(twins[0].parameters(), twins[1].parameters(), strict=True))


def test_muon_has_the_hidden_matrices_and_adamw_the_rest() -> None:
    _, model = model_of(run(optimizer="muon"))
    hidden = hidden_matrices(model)
    names = {name for name, parameter in model.named_parameters() if parameter in hidden}
    assert "encoder.transformer.encoder.layer.1.intermediate.dense.weight" in names
    assert all(".encoder.layer." in name or ".pooler." in name for name in names)
    assert all(name.endswith("weight") and "LayerNorm" not in name for name in names)
    chosen = settings(optimizer={"type": "muon", "lr": 0.05}, lr=1e-3)
    optimizer = build_optimizer(model, chosen)
    set_lr(optimizer, 5e-4)
    held = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(held) == sum(parameter.requires_grad for parameter in model.parameters())
    rates = {held[parameter]["lr"] for parameter in held if parameter in hidden}
    assert [float(f"{rate:.6g}") for rate in rates] == [0.025]
    assert {group["lr"] for parameter, group in held.items() if parameter not in hidden} == {5e-4}


def test_an_update_of_muon_moves_all_directions_alike() -> None:
    torch.manual_seed(1)
    model = nn.Linear(16, 16, bias=False)
    chosen = settings(optimizer={"type": "muon", "lr": 1.0, "newton_schulz_steps": 10}, weight_decay=0.0, lr=1.0)
    optimizer = build_optimizer(model, chosen)
    before = model.weight.detach().clone()
    model(torch.randn(64, 16)).square().sum().backward()
    grads = torch.linalg.svdvals(model.weight.grad)
    set_lr(optimizer, 1.0)
    optimizer.step()
    moves = torch.linalg.svdvals(before - model.weight.detach())
    assert float(grads.max() / grads.min()) > 10
    assert 0.5 < float(moves.min()) < float(moves.max()) < 1.5


def test_layers_further_from_the_head_learn_less() -> None:
    checked = run(layer_decay=0.5, lr=1.0)
    encoder, model = model_of(checked)
    optimizer = build_optimizer(model, checked.train, encoder.depth_of)
    set_lr(optimizer, 1.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates["head.linear.weight"] == 1.0
    assert rates["encoder.transformer.encoder.layer.1.output.dense.bias"] == 0.5
    assert rates["encoder.transformer.encoder.layer.0.output.dense.weight"] == 0.25
    assert rates["encoder.transformer.embeddings.word_embeddings.weight"] == 0.125
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays["encoder.transformer.encoder.layer.1.output.dense.bias"] == 0.0
    assert decays["encoder.transformer.encoder.layer.1.output.dense.weight"] == checked.train.weight_decay


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("transformer.embeddings.LayerNorm.bias", 0),  # BERT
        ("transformer.encoder.layer.11.attention.self.query.weight", 12),
        ("transformer.layers.3.mlp.Wi.weight", 4),  # ModernBERT
        ("transformer.transformer.layer.0.ffn.lin1.weight", 1),  # DistilBERT
        ("transformer.embeddings_project.weight", 0),  # ELECTRA
        ("transformer.final_norm.weight", None),
    ],
)
def test_depth_by_the_names_of_transformers(name: str, depth: int | None) -> None:
    assert TextEncoder(TextEncoder.Config(preset="tiny")).depth_of(name) == depth


def _mistakes(**train: Any) -> dict[str, str]:
    with pytest.raises(RunError) as caught:
        run(**train)
    return {problem.key: problem.rule for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("train", "key", "rule"),
    [
        ({"optimizer": {"type": "sgd", "betas": [0.9, 0.99]}}, "train.optimizer.betas", "no such setting"),
        ({"optimizer": {"momentum": 0.9}}, "train.optimizer.momentum", "no such setting"),
        ({"optimizer": {"type": "muon", "alpha": 0.9}}, "train.optimizer.alpha", "no such setting"),
        ({"optimizer": "adamv"}, "train.optimizer", "Did you mean 'adamw'?"),
        ({"betas": [0.9, 0.99]}, "train.betas", "no such setting"),
        (
            {"schedule": "cosine", "decay": 0.3},
            "train",
            "decay has no effect beside schedule: cosine: leave it out, or take schedule: wsd",
        ),
        ({"schedule": "wsd", "decay": 0.6, "warmup": 0.5}, "train", "must not be more than 1"),
        ({"layer_decay": 0.0}, "train.layer_decay", "greater than 0"),
        ({"trackers": ["comet"]}, "train.trackers.0", "'tensorboard', 'mlflow' or 'wandb'"),
    ],
)
def test_a_setting_without_effect_is_refused(train: dict[str, Any], key: str, rule: str) -> None:
    found = _mistakes(**train)
    assert list(found) == [key]
    assert rule in found[key]


def test_an_optimizer_survives_the_round_trip_and_takes_overrides() -> None:
    from heliostat.run.file import _lay

    values: dict[str, Any] = {"train": {"optimizer": "muon"}}
    assert _lay(values, "train.optimizer.momentum=0.9") is None
    checked = run(**values["train"])
    assert checked.train.optimizer.model_dump()["momentum"] == 0.9
    assert check(checked.dump()) == checked


def test_muon_takes_no_bag_of_words_and_no_rows_of_biases() -> None:
    model = nn.Sequential(nn.EmbeddingBag(30, 8), nn.Linear(8, 8), nn.Embedding(50, 8))
    model.register_parameter("gap", nn.Parameter(torch.zeros(4, 8)))
    assert hidden_matrices(model) == {model[1].weight}
