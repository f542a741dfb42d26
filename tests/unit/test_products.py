"""Linear layers that multiply together, and with less moving of memory: gradients are those of torch's own layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heliostat.encoders import products
from heliostat.encoders.attention import _joint
from heliostat.encoders.products import Follower, Leader, Linear, cheapen_products, pack

pytestmark = pytest.mark.skipif(not products._has_bf16_products(), reason="oneDNN multiplies no bf16 on this machine")
DIM = 32


class Layer(nn.Module):
    """What a layer of a transformer multiplies."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(DIM, DIM, bias=bias) for _ in range(3))
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, states: Tensor, read: Tensor | None = None) -> Tensor:
        other = states if read is None else read
        mixed = self.query(states) * self.key(other) + self.value(other)
        return self.down(self.up(mixed).relu())  # type: ignore[no-any-return]


def pair(bias: bool = True) -> tuple[Layer, Layer]:
    torch.manual_seed(0)
    plain = Layer(bias)
    cheap = copy.deepcopy(plain)
    cheapen_products(cheap)
    return plain, cheap


def gradients(layer: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    states = [each.clone().requires_grad_() for each in inputs]
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(*states)
    answer.float().square().sum().backward()
    found = {name: each.grad for name, each in layer.named_parameters() if each.grad is not None}
    return {**found, **{f"states {at}": each.grad for at, each in enumerate(states) if each.grad is not None}}


def alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    near = all((ours[name] - theirs[name]).norm() <= 0.02 * theirs[name].norm() for name in theirs)
    return near and list(ours) == list(theirs) and all(ours[name].dtype == theirs[name].dtype for name in theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48, DIM), (48, DIM), (2, 3, 8, DIM)])
def test_values_and_gradients_are_those_of_separate_layers(bias: bool, shape: tuple[int, ...]) -> None:
    plain, cheap = pair(bias)
    assert (type(cheap.query), type(cheap.key), type(cheap.up)) == (Leader, Follower, Linear)
    assert alike(gradients(cheap, torch.randn(shape)), gradients(plain, torch.randn(shape))) is False  # other states
    states = torch.randn(shape)
    assert alike(gradients(cheap, states), gradients(plain, states))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(cheap(states), plain(states), rtol=0.02, atol=0.02)


def test_what_reads_other_states_multiplies_by_itself() -> None:
    plain, cheap = pair()
    states, read = torch.randn(2, 1, 16, DIM)
    assert alike(gradients(cheap, states, read), gradients(plain, states, read))


def test_frozen_weights_get_no_gradient_and_pass_on_that_of_the_states() -> None:
    plain, cheap = pair()
    for layer in (plain, cheap):
        for parameter in (*layer.query.parameters(), layer.key.bias, *layer.up.parameters()):
            parameter.requires_grad_(False)
    states = torch.randn(1, 16, DIM)
    found = gradients(cheap, states)
    assert "query.weight" not in found
    assert "key.weight" in found
    assert alike(found, gradients(plain, states))


def test_a_pass_that_is_made_again_gives_the_same_gradients() -> None:
    _, cheap = pair()
    states = torch.randn(1, 16, DIM)
    once = gradients(cheap, states)

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = cheap

        def forward(self, states: Tensor) -> Tensor:
            return checkpoint(self.layer, states, use_reentrant=False)  # type: ignore[no-any-return]

    again = {name.removeprefix("layer."): each for name, each in gradients(Again(), states).items()}
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_nothing_changes_in_fp32_and_nothing_waits_outside_of_training() -> None:
    plain, cheap = pair()
    states = torch.randn(1, 16, DIM)
    assert torch.equal(plain(states), cheap(states))
    cheap.eval()
    with torch.autocast("cpu", torch.bfloat16):
        cheap(states)
    assert not any("waiting" in each.__dict__ for each in cheap.modules())


def test_a_model_keeps_the_names_of_its_weights_and_can_be_copied() -> None:
    plain, cheap = pair()
    assert list(cheap.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in cheap.named_modules()] == [name for name, _ in plain.named_modules()]
    twin = copy.deepcopy(cheap)
    assert twin.query.__dict__["followers"] == (twin.key, twin.value)
    assert twin.query.__dict__["followers"][0] is not cheap.key


def test_queries_keys_and_values_are_found_to_be_one_tensor() -> None:
    _, cheap = pair()
    states = torch.randn(1, 16, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [each(states).view(16, 4, DIM // 4) for each in (cheap.query, cheap.key, cheap.value)]
    joint = _joint(parts[0], parts[1], parts[2])
    assert joint is not None
    assert joint.shape == (16, 3 * DIM)
    assert torch.equal(joint.view(16, 3, 4, DIM // 4)[:, 1], parts[1])
    assert _joint(parts[0], parts[2], parts[1]) is None
    assert _joint(parts[0], parts[1], parts[2].clone()) is None
    assert _joint(parts[0].clone(), parts[1], parts[2]) is None


@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_answer_as_before_and_fp32_is_left_alone(bias: bool) -> None:
    _, cheap = pair(bias)
    cheap.eval().requires_grad_(False)
    packed = copy.deepcopy(cheap)
    pack(packed)
    states, others = torch.randn(48, DIM), torch.randn(48, DIM)
    for read in (None, others):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(packed(states, read), cheap(states, read))
        assert torch.equal(packed(states, read), cheap(states, read))
    assert list(packed.state_dict()) == list(cheap.state_dict())
