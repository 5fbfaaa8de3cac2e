"""Layers that are no plain product of weights and ReLU: flow stays positive and is conserved."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from altermoma_ray.pruning import prunable_weights
from altermoma_ray.pruning.criteria.linear_flow import LinearFlow, linear_copy


def scores_of(model, size, *, balanced=True):
    """Scores by weight, and R, for ones of a size."""
    copy = linear_copy(model)
    weights = {name: weight.requires_grad_(True) for name, weight in prunable_weights(copy).items()}
    with LinearFlow(balanced=balanced):
        total = copy(torch.ones(size).double()).sum()
        gradients = torch.autograd.grad(total, list(weights.values()))
    scores = {name: weights[name].detach() * gradient for name, gradient in zip(weights, gradients, strict=True)}
    assert all(bool((score >= 0).all()) for score in scores.values())
    return scores, float(total.detach())


def layer_sums(scores):
    return {name: float(score.sum()) for name, score in scores.items()}


class Attention(nn.Module):
    """Two heads, written as models write them: ``softmax(QKᵀ/√d + mask) V``."""

    def __init__(self, fused):
        super().__init__()
        self.qkv, self.proj, self.fused = nn.Linear(8, 24), nn.Linear(8, 8), fused

    def forward(self, x):
        query, key, value = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        if self.fused:
            attended = functional.scaled_dot_product_attention(query, key, value)
        else:
            mask = torch.zeros(x.shape[1], x.shape[1]).fill_diagonal_(-100)
            attended = (query * 0.5 @ key.transpose(-2, -1) + mask).softmax(-1) @ value
        return self.proj(attended.transpose(1, 2).flatten(2))


class TorchAttention(nn.MultiheadAttention):
    def __init__(self, **options):
        super().__init__(8, 2, **options)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    """A transformer block between two linear layers, with a position table."""

    def __init__(self, attention, activation):
        super().__init__()
        self.embed, self.norm1, self.attention, self.norm2 = (
            nn.Linear(3, 8),
            nn.LayerNorm(8),
            attention,
            nn.LayerNorm(8),
        )
        self.widen, self.activation, self.narrow = nn.Linear(8, 16), activation, nn.Linear(16, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.narrow(self.activation(self.widen(self.norm2(x))))
        return self.last(x)


ATTENTIONS = {
    "softmax": lambda: Attention(fused=False),
    "fused": lambda: Attention(fused=True),
    "module": lambda: TorchAttention(batch_first=True),
    "tokens first": TorchAttention,
}


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.ReLU6()], ids=str)
def test_flow_through_a_transformer_is_conserved(attention, activation, balanced):
    torch.manual_seed(0)
    model = Block(ATTENTIONS[attention](), activation)
    scores, total = scores_of(model, (2, 5, 3), balanced=balanced)
    sums = layer_sums(scores)
    assert sums["embed.weight"] == pytest.approx(total)
    assert sums["last.weight"] == pytest.approx(total)
    assert sums["widen.weight"] == pytest.approx(sums["narrow.weight"])
    entrance, exit_ = (score for name, score in scores.items() if name.startswith("attention"))
    assert float(entrance.sum()) == pytest.approx(float(exit_.sum()))
    query, key, value = (float(part.sum()) for part in entrance.chunk(3))
    assert query == pytest.approx(float(exit_.sum()) / 4)
    assert key == pytest.approx(query)
    assert value == pytest.approx(2 * query)


def test_attention_with_keys_and_values_of_other_sizes():
    torch.manual_seed(0)

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.attention(self.first(x), x[..., [0] * 6], x[..., [0] * 5])[0])

    scores, total = scores_of(Cross(), (2, 4, 3))
    parts = [float(scores[f"attention.{name}_proj_weight"].sum()) for name in "qkv"]
    assert sum(parts) == pytest.approx(total)


NORMS = {
    "batch": lambda: nn.BatchNorm1d(6),
    "batch without statistics": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "batch without gain": lambda: nn.BatchNorm1d(6, affine=False),
    "group": lambda: nn.GroupNorm(3, 6),
    "instance": lambda: nn.InstanceNorm1d(6, affine=True),
    "layer": lambda: nn.LayerNorm(4),
}


@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_their_gain(norm):
    torch.manual_seed(0)
    layer = NORMS[norm]()
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2).mul_(-1 if name == "weight" else 1)
    values = torch.rand(2, 6, 4).double()
    gain = torch.ones(()) if layer.__dict__.get("affine") is False else layer.weight.detach().double().abs()
    if norm != "layer":
        gain = gain.view(-1, 1)
    if getattr(layer, "running_var", None) is not None:
        gain = gain / (layer.running_var.double() + layer.eps).sqrt()[:, None]
    copy = linear_copy(layer)
    with LinearFlow(balanced=False):
        torch.testing.assert_close(copy(values), values * gain)
    with LinearFlow(balanced=True):
        found = copy(3 * values)
    torch.testing.assert_close(found / found.mean(), values * gain / (values * gain).mean())
    with LinearFlow(balanced=True):
        torch.testing.assert_close(copy(values), found)


def test_a_product_of_activations_shares_the_flow():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.value, self.gate = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            return self.value(x) * torch.sigmoid(self.gate(x)) * 2

    torch.manual_seed(0)
    scores, total = scores_of(Gated(), (1, 3))
    assert layer_sums(scores) == pytest.approx(
        {"first.weight": total, "value.weight": total / 2, "gate.weight": total / 2}
    )


def test_shifts_are_zero_and_the_model_is_not_touched():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = linear_copy(model)
    with LinearFlow(balanced=True):
        assert bool((copy(torch.zeros(1, 2, 4, 4).double()) == 0).all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert {value.dtype for value in copy.parameters()} == {torch.float64}
