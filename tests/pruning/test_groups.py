from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

from altermoma_ray import pruning
from altermoma_ray.pruning import group_weights, prunable_weights


class LayerNorm2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1))


class NormedLinear(nn.Linear):
    """A linear layer, whatever its name begins with."""


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.deconvolution = nn.ConvTranspose2d(4, 4, 2)
        self.volume = nn.Conv3d(1, 2, 3)
        self.linear = nn.Linear(4, 4)
        self.normed = NormedLinear(4, 4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.LayerNorm((4, 4)), nn.GroupNorm(2, 4), LayerNorm2d()])
        self.embedding = nn.Embedding(5, 4)
        self.tied = nn.Linear(4, 5, bias=False)
        self.tied.weight = self.embedding.weight
        self.shared = self.linear
        self.also = nn.Linear(4, 4)
        self.also.weight = self.linear.weight
        self.slope = nn.PReLU(3)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.query = nn.Parameter(torch.zeros(9, 2))


def test_prunable_are_weights_of_convolutions_linear_layers_and_attention():
    model = Zoo()
    weights = prunable_weights(model)
    assert list(weights) == [
        "convolution.weight",
        "deconvolution.weight",
        "volume.weight",
        "linear.weight",
        "normed.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "cross.q_proj_weight",
        "cross.k_proj_weight",
        "cross.v_proj_weight",
        "cross.out_proj.weight",
    ]
    assert all(weight is model.get_parameter(name) for name, weight in weights.items())


def test_sparse_convolutions_are_prunable():
    spconv = pytest.importorskip("spconv.pytorch", reason="spconv is not installed")
    model = spconv.SparseSequential(
        spconv.SubMConv3d(3, 4, 3, algo=spconv.ConvAlgo.Native), nn.BatchNorm1d(4), spconv.SparseConv3d(4, 5, 3)
    )
    assert list(prunable_weights(model)) == ["0.weight", "2.weight"]


def test_nothing_to_prune_is_said():
    with pytest.raises(ValueError, match="Sequential has no prunable weight: it needs a convolution or a linear layer"):
        prunable_weights(nn.Sequential(nn.BatchNorm1d(3), nn.Embedding(3, 3)))


def test_weights_are_sorted_into_groups():
    names = ["camera.a", "fusion.a", "camera.b"]
    assert group_weights(names, lambda name: name[:6]) == {"camera": ["camera.a", "camera.b"], "fusion": ["fusion.a"]}
    with pytest.raises(ValueError, match="there are no weights to sort into groups"):
        group_weights([], str)


def test_the_package_example_works():
    result = doctest.testmod(pruning)
    assert result.attempted > 15
    assert result.failed == 0
