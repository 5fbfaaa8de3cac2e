"""The counter against layers counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.counting import count
from altermoma_ray.models.encoders.lidar import SparseEncoder
from altermoma_ray.models.layers.attention import Attention


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(6, 5), (3, 7, 6), 3 * 7 * 6 * 5),
        (nn.Conv2d(4, 8, 3, padding=1), (2, 4, 5, 6), 2 * 5 * 6 * 8 * 4 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (1, 4, 6, 6), 3 * 3 * 8 * 2 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 25 * 4 * 6 * 4),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 4, 4), 0),
    ],
)
def test_layers_count_as_by_hand(layer, shape, macs):
    found = count(layer, lambda model: model(torch.zeros(shape)))
    assert found.macs == macs
    assert found.parameters == sum(parameter.numel() for parameter in layer.parameters())
    assert layer.training


def test_attention_counts_its_projections_and_both_products():
    attention = Attention(8, heads=2)
    queries, memory = torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)
    found = count(attention, lambda model: model(queries, memory))
    projections = 3 * 8 * 8 + 2 * 5 * 8 * 8 + 3 * 8 * 8
    assert found.macs == projections + 2 * 3 * 5 * 8


def test_sparse_layers_count_the_pairs_of_occupied_voxels():
    config = configuration("bevfusion-mit-toy").lidar
    encoder = SparseEncoder(config, (16, 16, 14))
    # Two neighbours and one voxel far from both: a 3×3×3 kernel connects 2 + 2 + 1 pairs.
    places = torch.tensor([[0, 4, 4, 4], [0, 4, 5, 4], [0, 12, 12, 8]], dtype=torch.int32)
    found = count(encoder, lambda model: model(torch.randn(3, 5), places, 1))
    assert found.by_layer["input_conv.0"] == 5 * 5 * config.input_channels
    assert found.by_layer["stages.0.0.0"] > 0  # strided: it has no key of its own
    assert encoder.stages[0][0][0].indice_key is None
    assert found.macs == sum(found.by_layer.values())


def test_groups_add_up_to_the_model(batch):
    model = FusionModel(configuration("bevfusion-mit-toy"))
    found = count(model, lambda one: one(batch))
    groups = found.by_group(model.group_of)
    assert set(groups) == {"camera", "lidar", "fusion"}
    assert sum(groups.values()) == found.macs
    without = count(model, lambda one: one(batch, frozenset({"camera"})))
    assert without.by_group(model.group_of).keys() == {"lidar", "fusion"}
    assert without.macs == found.macs - groups["camera"]
