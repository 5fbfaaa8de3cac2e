"""A batch of random pictures, points and radar returns with sound geometry, made for the toy model."""

from __future__ import annotations

import math

import pytest
import torch

from altermoma_ray.data.batch import Batch
from altermoma_ray.data.radar import VALUES
from altermoma_ray.models.configurations.named import configuration


@pytest.fixture
def batch() -> Batch:
    """Two samples of ``bevfusion-mit-toy``, both augmented."""
    inputs = configuration("bevfusion-mit-toy").inputs
    generator = torch.Generator().manual_seed(0)
    cameras, (height, width) = len(inputs.cameras), inputs.image_size
    intrinsic = torch.tensor([[300.0, 0, 200], [0, 300, 112.5], [0, 0, 1]])
    camera_to_lidar = torch.eye(4).repeat(2, cameras, 1, 1)
    for camera in range(cameras):
        angle = math.radians(60 * camera)
        forward = torch.tensor([math.cos(angle), math.sin(angle), 0])
        right = torch.tensor([math.sin(angle), -math.cos(angle), 0])
        camera_to_lidar[:, camera, :3, :3] = torch.stack([right, torch.tensor([0.0, 0, -1]), forward], dim=1)
        camera_to_lidar[:, camera, :3, 3] = 0.8 * forward
    image_augmentation = torch.tensor([[0.32, 0, 0], [0, 0.32, -24], [0, 0, 1]])
    lidar_augmentation = torch.eye(4).repeat(2, 1, 1)
    for sample, angle in enumerate((0.2, -0.3)):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        lidar_augmentation[sample, :2, :2] = turn
        lidar_augmentation[sample, :3, 3] = torch.tensor([0.3, -0.2, 0.1])
    low, high = torch.tensor(inputs.point_range[:3]), torch.tensor(inputs.point_range[3:])
    points = []
    for count in (900, 700):
        position = low + (high - low) * torch.rand(count, 3, generator=generator) * torch.tensor([0.5, 0.5, 1])
        rest = torch.rand(count, 2, generator=generator) * torch.tensor([255, 0.1])
        points.append(torch.cat([position + torch.tensor([12.8, 12.8, 0]), rest], dim=1))
    return Batch(
        tokens=["first", "second"],
        images=torch.randn(2, cameras, 3, height, width, generator=generator),
        points=points,
        camera_intrinsics=intrinsic.repeat(2, cameras, 1, 1),
        camera_to_lidar=camera_to_lidar,
        image_augmentation=image_augmentation.repeat(2, cameras, 1, 1),
        lidar_augmentation=lidar_augmentation,
        boxes=[torch.tensor([[5.0, 3, 0, 4, 2, 1.5, 0.3, 1, 0]]), torch.zeros(0, 9)],
        labels=[torch.tensor([0]), torch.zeros(0, dtype=torch.int64)],
        radar=[_returns(low, high, count, generator) for count in (120, 80)],
    )


def _returns(low: torch.Tensor, high: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    position = low + (high - low) * torch.rand(count, 3, generator=generator)
    return torch.cat([position, torch.randn(count, VALUES - 3, generator=generator)], dim=1)
