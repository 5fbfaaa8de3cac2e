from __future__ import annotations

import copy

import pytest
import torch

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.configurations.pillars import PillarConfig
from altermoma_ray.models.encoders.pillars import PillarBackbone, PillarEncoder

TOY = configuration("bevfusion-mit-pointpillars-toy")
SMALL = PillarConfig(voxel_size=(1.0, 2.0, 4.0), max_points=3, units=(4, 6), point_scale=(0.5, 0.5, 0.25, 0.01, 1.0))
LOWER, GRID = (-4.0, -4.0, -2.0), (8, 4, 1)


def encoder_of(config=SMALL):
    torch.manual_seed(0)
    encoder = PillarEncoder(config, LOWER, GRID).eval()
    for layer in encoder.backbone.pts_voxel_encoder.pfn_layers:
        torch.nn.init.normal_(layer.norm.running_mean, std=0.3)
        torch.nn.init.uniform_(layer.norm.running_var, 0.5, 2)
        torch.nn.init.normal_(layer.norm.bias, std=0.3)
    return encoder


def cloud(count, seed):
    random = torch.Generator().manual_seed(seed)
    place = (torch.rand(count, 3, generator=random) - 0.5) * torch.tensor([9.0, 9.0, 3.9])
    return torch.cat([place, torch.rand(count, 2, generator=random) * torch.tensor([255.0, 0.5])], dim=1)


def encode_by_loop(encoder, points):
    """One sample's map, pillar by pillar and point by point."""
    config, layers = encoder.config, encoder.backbone.pts_voxel_encoder.pfn_layers
    bev = torch.zeros(encoder.out_channels, *GRID[:2])
    for x in range(GRID[0]):
        for y in range(GRID[1]):
            low = torch.tensor([LOWER[0] + x * 1.0, LOWER[1] + y * 2.0])
            inside = ((points[:, :2] >= low) & (points[:, :2] < low + torch.tensor([1.0, 2.0]))).all(1)
            own = points[inside & (points[:, 2] >= -2) & (points[:, 2] < 2)][: config.max_points]
            if len(own) == 0:
                continue
            centre = torch.tensor([low[0] + 0.5, low[1] + 1.0, 0.0])
            rows = torch.zeros(config.max_points, config.in_channels)
            for row, point in enumerate(own):
                offset = (point[:3] - centre)[: config.centre_offsets]
                values = (point * torch.tensor(config.point_scale))[: config.point_values]
                rows[row] = torch.cat([values, point[:3] - own[:, :3].mean(0), offset])
            for number, layer in enumerate(layers):
                rows = layer.norm(layer.linear(rows)).relu()
                maxima = rows.max(0).values
                rows = maxima if number == len(layers) - 1 else torch.cat([rows, maxima.expand_as(rows)], dim=1)
            bev[:, x, y] = rows
    return bev


@pytest.mark.parametrize("config", [SMALL, SMALL.model_copy(update={"point_values": 4, "centre_offsets": 3})])
def test_pillars_against_a_loop(batch, config):
    encoder = encoder_of(config)
    batch.points = [cloud(60, 0), cloud(30, 1)]
    with torch.no_grad():
        bev = encoder(batch)
        expected = torch.stack([encode_by_loop(encoder, points) for points in batch.points])
    assert bev.shape == (2, 6, 8, 4)
    torch.testing.assert_close(bev, expected, atol=1e-5, rtol=1e-4)


def test_published_figures_give_the_published_layers():
    published = PillarBackbone(PillarConfig(), (512, 512))
    assert {name: tuple(one.shape) for name, one in published.named_parameters()} == {
        "pts_voxel_encoder.pfn_layers.0.linear.weight": (32, 10),
        "pts_voxel_encoder.pfn_layers.0.norm.weight": (32,),
        "pts_voxel_encoder.pfn_layers.0.norm.bias": (32,),
        "pts_voxel_encoder.pfn_layers.1.linear.weight": (64, 64),
        "pts_voxel_encoder.pfn_layers.1.norm.weight": (64,),
        "pts_voxel_encoder.pfn_layers.1.norm.bias": (64,),
    }
    # BEVFusion-pku's stream: 64 and 64 outputs, ten numbers a point.
    pku = PillarConfig(units=(64, 64), point_values=4, centre_offsets=3)
    assert pku.in_channels == 10
    layers = PillarBackbone(pku, (400, 400)).pts_voxel_encoder.pfn_layers
    assert [tuple(layer.linear.weight.shape) for layer in layers] == [(64, 10), (64, 128)]


def test_the_map_at_full_size(batch):
    config = configuration("bevfusion-mit-pointpillars")
    encoder = PillarEncoder(config.lidar, config.inputs.point_range[:3], config.voxel_grid).eval()
    with torch.no_grad():
        bev = encoder(batch.samples(0, 1))
    assert bev.shape == (1, 64, *config.map_size("lidar")) == (1, 64, 512, 512)
    lit = bev[0].abs().sum(0).nonzero()
    cells = ((batch.points[0][:, :2] + 51.2) / 0.2).floor().long().unique(dim=0)
    assert torch.equal(lit, cells)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_batches_with_hardly_any_point(batch, training, count):
    encoder = PillarEncoder(TOY.lidar, TOY.inputs.point_range[:3], TOY.voxel_grid).train(training)
    batch.points = [batch.points[0][:count], batch.points[1][:0]]
    bev = encoder(batch)
    assert bev.shape == (2, encoder.out_channels, *TOY.map_size("lidar"))
    assert bev.isfinite().all()
    assert bev[1].abs().sum() == 0


def test_only_so_many_pillars_count_each_way(batch):
    limited = TOY.lidar.model_copy(update={"max_voxels_train": 5, "max_voxels_test": 50})
    encoder = PillarEncoder(limited, TOY.inputs.point_range[:3], TOY.voxel_grid)
    backbone, seen = encoder.backbone, []
    backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    encoder.train()(batch)
    encoder.eval()(batch)
    assert seen == [10, 100]


def test_numbers_in_empty_slots_do_not_matter(batch):
    encoder = encoder_of()
    points, count = torch.randn(2, 3, 10), torch.tensor([1, 3])
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 3, 2, 0]], dtype=torch.int32)
    other = copy.deepcopy(points)
    other[0, 1:] = 7.0
    bevs = [encoder.backbone(one, count, coordinates, 1) for one in (points, other)]
    assert torch.equal(*bevs)
