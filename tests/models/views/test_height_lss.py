from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.views.depth_lss import grid_cell, place_frustum
from altermoma_ray.models.views.height_lss import HeightLss

SMALL = HeightLiftConfig(
    neck=4,
    original_size=(150, 400),
    shown_size=(48, 128),
    depth_bins=(2.0, 20.0, 2.0),
    channels=3,
    grid_x=(-20.0, 20.0, 2.0),
    grid_y=(-16.0, 16.0, 2.0),
    grid_z=(-4.0, 4.0, 2.0),
    bev=(5, 6, 7),
)


def test_frustum_lies_on_the_original_picture():
    config = HeightLiftConfig(neck=1, channels=1, bev=(1, 1, 1), grid_z=(-5.0, 3.0, 8.0))
    view = HeightLss(config, (448, 800))
    assert view.frustum.shape == (41, 112, 200, 3)
    assert view.frustum[0, 0, 0].tolist() == [0, 0, 4]
    assert view.frustum[-1, -1, -1].tolist() == [1599, 899, 44]
    assert view.stride == (4, 4)


def test_a_picture_that_was_only_resized_is_lifted_along_the_rays_of_the_original(batch):
    view = HeightLss(SMALL, (48, 128))
    resized = torch.diag(torch.tensor([128 / 400, 48 / 150, 1.0])).expand_as(batch.image_augmentation)
    # As published: the picture's size plays no part.
    placed = place_frustum(
        view.frustum,
        batch.camera_intrinsics,
        batch.camera_to_lidar,
        torch.eye(3).expand_as(resized),
        batch.lidar_augmentation,
    )
    expected = grid_cell(placed, view.grid_first_centre, view.grid_step)
    found = view.cells(replace(batch, image_augmentation=resized))
    # A point on the edge of two cells may fall either way in single precision.
    assert (found != expected).any(-1).float().mean() < 1e-3


def test_a_mirrored_picture_is_lifted_along_mirrored_rays(batch):
    view = HeightLss(SMALL, (48, 128))
    resized = torch.diag(torch.tensor([128 / 400, 48 / 150, 1.0])).expand_as(batch.image_augmentation)
    # The frustum's columns run from 0 to 399, so that mirroring about their middle exchanges the outer ones.
    mirror = torch.tensor([[-1.0, 0, 399 * 128 / 400], [0, 1, 0], [0, 0, 1]])
    plain = view.cells(replace(batch, image_augmentation=resized))
    mirrored = view.cells(replace(batch, image_augmentation=mirror @ resized))
    assert (mirrored.flip(-2) != plain).any(-1).float().mean() < 1e-3


def test_heights_of_a_channel_lie_together():
    torch.manual_seed(0)
    view = HeightLss(SMALL, (48, 128))
    depth, context = torch.rand(2, 9, 1, 2), torch.randn(2, 3, 1, 2)
    cell = torch.stack([torch.randint(-1, size + 1, (1, 2, 9, 1, 2)) for size in view.grid_shape], dim=-1)
    x, y, z = 7, 9, 2
    cell[0, :, 3] = torch.tensor([x, y, z])
    pooled = view.pool(depth, context, cell)
    assert pooled.shape == (1, 12, 20, 16)
    for channel in range(3):
        there = (cell[0] == torch.tensor([x, y, z])).all(-1)
        expected = (depth * there * context[:, channel, None]).sum()
        torch.testing.assert_close(pooled[0, channel * 4 + z, x, y], expected)
    assert view.pooled_channels().tolist() == [[4 * channel + z for z in range(4)] for channel in range(3)]
    # The whole sum is kept: every point of the grid is in one channel.
    inside = ((cell >= 0) & (cell < torch.tensor(view.grid_shape))).all(-1)[0]
    torch.testing.assert_close(pooled.sum(), (depth[:, None] * inside[:, None] * context[:, :, None]).sum())


def test_the_map_has_the_last_convolution_s_channels_and_the_grid_s_cells(batch):
    view = HeightLss(SMALL, (48, 128)).eval()
    rows, columns = SMALL.feature_size
    bev = view(torch.randn(12, 4, rows, columns), batch)
    assert bev.shape == (2, 7, 20, 16)
    assert view.out_channels == 7
    convolutions = [layer for layer in view.downsample if isinstance(layer, torch.nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [(12, 12), (12, 5), (5, 6), (6, 7)]


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_a_camera_lights_up_the_map_where_it_looks(batch, angle):
    view = HeightLss(SMALL, (48, 128)).eval()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    augmentation = torch.eye(4).repeat(2, 1, 1)
    augmentation[:, :2, :2] = turn
    cell = view.cells(replace(batch, lidar_augmentation=augmentation))[0, 0]
    # The first camera looks along x before the scene is turned.
    middle = cell[4, cell.shape[1] // 2, cell.shape[2] // 2, :2]
    x, y = ((middle + 0.5) * 2 - torch.tensor([20.0, 16.0])).tolist()
    assert math.atan2(y, x) == pytest.approx(angle, abs=0.2)
