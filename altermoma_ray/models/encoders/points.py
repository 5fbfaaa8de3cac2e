"""What the encoders of LiDAR points have in common: their grid, and a decoder of the branch's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.lidar import AnyLidar
from altermoma_ray.models.decoders.second import BevDecoder

Gathered = TypeVar("Gathered")


class PointEncoder(nn.Module):
    """Points to a BEV map [N, channels, x, y], through a ``backbone`` and, where there is one, a ``decoder``."""

    point_scale: Tensor

    def __init__(self, config: AnyLidar, lower: Sequence[float], grid: tuple[int, int, int]) -> None:
        """Prepare the grid; a subclass makes the backbone.

        Args:
            config: the branch's section.
            lower: lower corner of the grid (m, augmented lidar frame).
            grid: voxels along x, y, z.
        """
        super().__init__()
        self.config = config
        self.lower = tuple(lower)
        self.grid = grid
        self.register_buffer("point_scale", torch.tensor(config.point_scale), persistent=False)

    def add_decoder(self) -> None:
        """Make the branch's own decoder where its section has one; called once the backbone is there."""
        if self.config.decoder is not None:
            self.decoder = BevDecoder(self.config.decoder, self.backbone.out_channels)

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return int((self.decoder if hasattr(self, "decoder") else self.backbone).out_channels)

    def forward(self, batch: Batch) -> Tensor:
        """A BEV map [N, channels, x, y] of the batch's points."""
        bev = self.encoded(batch)
        return self.decoder(bev) if hasattr(self, "decoder") else bev

    @abstractmethod
    def encoded(self, batch: Batch) -> Tensor:
        """The backbone's BEV map of the batch's points, before the branch's own decoder."""

    def gathered(self, gather: Callable[..., Gathered], batch: Batch) -> Gathered:
        """The batch's points in the branch's voxels.

        Args:
            gather: :func:`altermoma_ray.models.layers.voxelise.voxelise`, or a function with the same arguments.
            batch: has the points.
        """
        return gather(
            batch.points,
            lower=self.lower,
            size=self.config.voxel_size,
            grid=self.grid,
            max_points=self.config.max_points,
            max_voxels=self.config.max_voxels_train if self.training else self.config.max_voxels_test,
        )
