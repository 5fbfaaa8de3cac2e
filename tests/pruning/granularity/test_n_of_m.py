"""N of every M weights, along the inputs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Masks, Target, prunable_weights
from altermoma_ray.pruning.granularity import NofM
from altermoma_ray.pruning.granularity.n_of_m import compress
from altermoma_ray.pruning.targets import OutOfReach


class Layers(nn.Module):
    """One layer of each kind; the first has inputs in threes, the transposed one has no pattern."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, 6, 3)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.linear = nn.Linear(12, 5)
        self.attention = nn.MultiheadAttention(8, 2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Layers()


def scores_of(model):
    return {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}


def target_of(scores, sparsity):
    return Target(groups={"all": list(scores)}, sparsity=sparsity)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2)])
def test_the_highest_of_every_group_along_the_inputs_stay(model, n, m):
    pattern, scores = NofM(n, m).bound_to(model, None), scores_of(model)
    masks = pattern.select(scores, target_of(scores, 1 - n / m))
    allowed = {
        "conv.weight",
        "grouped.weight",
        "linear.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert set(pattern.inputs) == allowed
    assert masks.floored == ("stem.weight", "up.weight")
    for name in allowed:
        assert masks.sparsity([name]) == 1 - n / m
    # By loops: at each output channel and kernel position, groups of input channels.
    score, mask = scores["conv.weight"], masks["conv.weight"]
    for out in range(6):
        for row in range(3):
            for column in range(3):
                for first in range(0, 8, m):
                    group = score[out, first : first + m, row, column]
                    kept = mask[out, first : first + m, row, column].nonzero()[:, 0].tolist()
                    assert kept == sorted(group.argsort(descending=True)[:n].tolist())
    assert bool(masks["stem.weight"].all())


def test_the_layers_with_the_least_to_lose_take_the_pattern_first(model):
    pattern, scores = NofM().bound_to(model, None), scores_of(model)
    scores["linear.weight"] *= 1e-3
    masks = pattern.select(scores, target_of(scores, 0.01))
    assert [name for name in masks if not bool(masks[name].all())] == ["linear.weight"]
    with pytest.raises(
        OutOfReach, match=r"can go up to a sparsity of 0\.\d+, but 0\.900 is asked for: .* or for 0\.5,"
    ):
        pattern.select(scores, target_of(scores, 0.9))
    scores["linear.weight"] = torch.full_like(scores["linear.weight"], torch.inf)
    assert bool(pattern.select(scores, target_of(scores, 0.01))["linear.weight"].all())


def test_other_patterns_and_models_are_refused(model):
    pattern, scores = NofM().bound_to(model, None), scores_of(model)
    masks = dict(pattern.select(scores, target_of(scores, 0.5)))
    masks["linear.weight"] = torch.arange(60).view(5, 12) % 3 == 0
    with pytest.raises(
        UserError, match=r"the masks prune 'linear.weight' in another pattern than 2 of 4: .*granularity"
    ):
        pattern.checked(Masks(masks))
    with pytest.raises(UserError, match="Linear has no linear layer or convolution whose inputs are a multiple of 4; "):
        NofM().bound_to(nn.Linear(3, 4), None)
    with pytest.raises(UserError, match=r"a pattern needs 0 < n < m, but got n=4, m=4"):
        NofM(4, 4)
    with pytest.raises(UserError, match="the pattern 2 of 4 knows no model yet"):
        NofM().select(scores, target_of(scores, 0.5))


def test_kernels_are_told_to_be_missing_on_a_cpu(model):
    with pytest.raises(
        UserError, match=r"need half precision on a CUDA device .* the model is float32 on cpu; measure"
    ):
        compress(model)
