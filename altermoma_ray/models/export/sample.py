"""A drawn sample to check exported files on: no data set is needed, and every part of a model has work to do."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from altermoma_ray.data.batch import Batch
from altermoma_ray.data.transforms import ImageView, InputConfig
from altermoma_ray.models.configurations.config import ModelConfig

PICTURE = 1600, 900
"""Width and height of an original picture."""
RINGS, COLUMNS = 32, 1080
"""Beams of the drawn LiDAR, and shots in one turn."""


def drawn_sample(config: ModelConfig, seed: int = 0) -> Batch:
    """One sample: smooth random pictures, and a LiDAR scan of a floor within a crooked wall.

    The cameras stand in a circle and look outwards, level; the LiDAR sees points in all of them.

    >>> from altermoma_ray.models.configurations.named import configuration
    >>> drawn_sample(configuration("bevfusion-mit-toy")).images.shape
    torch.Size([1, 6, 3, 48, 128])

    Args:
        config: the model's; sets the pictures' size and the LiDAR's range.
        seed: of all draws.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = config.inputs
    cameras = len(inputs.cameras)
    coarse = torch.randn(cameras, 3, 8, 16, generator=generator)
    pictures = functional.interpolate(coarse, inputs.image_size, mode="bicubic", align_corners=False)
    intrinsics, to_lidar = _rig(cameras)
    view = torch.from_numpy(ImageView.draw(inputs, *PICTURE, None).matrix()).float()
    return Batch(
        tokens=["drawn"],
        images=pictures[None],
        points=[_scan(inputs, generator)],
        camera_intrinsics=intrinsics[None],
        camera_to_lidar=to_lidar[None],
        image_augmentation=view.expand(1, cameras, 3, 3),
        lidar_augmentation=torch.eye(4)[None],
        boxes=[torch.zeros(0, 9)],
        labels=[torch.zeros(0, dtype=torch.int64)],
    )


def _rig(cameras: int) -> tuple[Tensor, Tensor]:
    """Intrinsics [C, 3, 3], and camera frame to lidar frame [C, 4, 4]."""
    focal = PICTURE[0] / 2 / math.tan(math.radians(35))
    intrinsics = torch.tensor([[focal, 0, PICTURE[0] / 2], [0, focal, PICTURE[1] / 2], [0, 0, 1]])
    to_lidar = torch.eye(4).repeat(cameras, 1, 1)
    for camera in range(cameras):
        angle = 2 * math.pi * camera / cameras
        forward = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        right = torch.tensor([math.sin(angle), -math.cos(angle), 0.0])
        to_lidar[camera, :3, :3] = torch.stack([right, torch.tensor([0.0, 0.0, -1.0]), forward], dim=1)
        to_lidar[camera, :3, 3] = 0.8 * forward
    return intrinsics.repeat(cameras, 1, 1), to_lidar


def _scan(inputs: InputConfig, generator: torch.Generator) -> Tensor:
    """Points [P, 5] of a turning LiDAR: each shot ends at the floor, or at the wall where that is nearer."""
    elevation = torch.deg2rad(torch.linspace(-30, 10, RINGS))[:, None]
    azimuth = torch.arange(COLUMNS) * (2 * math.pi / COLUMNS)
    reach = 0.9 * min(inputs.point_range[3:5])
    wall = reach * (0.6 + 0.3 * torch.sin(3 * azimuth) + 0.1 * torch.rand(COLUMNS, generator=generator))
    floor = torch.where(elevation < 0, 1.8 / torch.tan(-elevation).clamp(min=1e-3), torch.inf)
    flat = torch.minimum(wall.expand(RINGS, -1), floor) + 0.02 * torch.randn(RINGS, COLUMNS, generator=generator)
    x, y, z = flat * azimuth.cos(), flat * azimuth.sin(), flat * torch.tan(elevation)
    intensity = 255 * torch.rand(RINGS, COLUMNS, generator=generator)
    lag = 0.05 * torch.randint(inputs.sweeps, (RINGS, COLUMNS), generator=generator)
    return torch.stack([x, y, z, intensity, lag], dim=-1).flatten(0, 1)
