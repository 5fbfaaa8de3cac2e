"""Attention against PyTorch's own layer: the same weights, digits and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.models.layers.attention import Attention, attend_step_by_step
from altermoma_ray.pruning import prunable_weights

CHANNELS, HEADS = 32, 4


def layers():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, dropout=0.1, batch_first=True)
    torch.manual_seed(0)
    ours = Attention(CHANNELS, HEADS, dropout=0.1)
    return theirs, ours


def test_one_seed_gives_the_weights_of_pytorch_s_layer():
    theirs, ours = layers()
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert list(prunable_weights(ours)) == list(prunable_weights(theirs))


@pytest.mark.parametrize("mode", ["training", "evaluation", "inference"])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_digits_are_those_of_pytorch_s_layer(mode, kind):
    theirs, ours = layers()
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    queries = torch.randn(2, 7, CHANNELS)
    memory = queries if kind == "self" else torch.randn(2, 50, CHANNELS)
    found = []
    for layer, run in ((theirs, lambda: theirs(queries, memory, memory, need_weights=False)[0]), (ours, None)):
        layer.train(mode == "training")
        torch.manual_seed(1)  # of dropout
        with torch.inference_mode(mode == "inference"):
            found.append(run() if run else ours(queries, memory))
    # PyTorch's fused kernel, which runs here alone, rounds in another order.
    is_fused = mode == "inference" and kind == "self"
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5 if is_fused else 0)
    if mode != "inference":
        for output in found:
            output.square().sum().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_single_operations_attend_as_the_fused_one():
    _, ours = layers()
    query, key, value = (torch.randn(2, HEADS, tokens, 8) for tokens in (7, 50, 50))
    torch.testing.assert_close(attend_step_by_step(query, key, value), ours.eval().attend(query, key, value))
