"""The pillar encoder of a LiDAR branch (Lang et al., *PointPillars*, CVPR 2019).

Figures and parameter names are those of BEVFusion's published code. With other figures, the layers are those of
BEVFusion-pku's PointPillars stream: ``units=(64, 64)``, four values a point, and offsets from the centre along z too.

Notation: V occupied pillars of a batch, P slots for points in each, F numbers that describe a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.pillars import PillarConfig
from altermoma_ray.models.encoders.points import PointEncoder
from altermoma_ray.models.layers.blocks import SECOND_EPS
from altermoma_ray.models.layers.voxelise import VoxelPoints, voxel_points


class PillarLayer(nn.Module):
    """Linear layer, batch normalisation and ReLU on each point, then the maxima over the pillar."""

    def __init__(self, inputs: int, units: int, momentum: float, *, is_last: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, units, bias=False)
        self.norm = nn.BatchNorm1d(units, eps=SECOND_EPS, momentum=momentum)
        self.is_last = is_last

    def forward(self, points: Tensor) -> Tensor:
        """[V, P, inputs] to [V, P, 2 · units], the maxima behind each point's own outputs; in the end [V, units]."""
        outputs = self.linear(points)
        outputs = torch.relu(self.norm(outputs.flatten(0, 1))).view_as(outputs)
        # Empty slots take part in the statistics and in the maxima, as in the published code.
        maxima = outputs.amax(dim=1)
        if self.is_last:
            return maxima
        return torch.cat([outputs, maxima[:, None].expand_as(outputs)], dim=2)


class PillarFeatures(nn.Module):
    """The layers one after the other: points [V, P, F] to pillars [V, channels]."""

    def __init__(self, config: PillarConfig) -> None:
        super().__init__()
        layers, inputs, last = [], config.in_channels, len(config.units) - 1
        for number, units in enumerate(config.units):
            layers.append(PillarLayer(inputs, units, config.norm_momentum, is_last=number == last))
            inputs = 2 * units
        self.pfn_layers = nn.Sequential(*layers)

    def forward(self, points: Tensor) -> Tensor:
        """See the class."""
        return self.pfn_layers(points)


class PillarBackbone(nn.Module):
    """Described points to a BEV map [N, channels, x, y], zero where no pillar stands."""

    def __init__(self, config: PillarConfig, bev_size: tuple[int, int]) -> None:
        super().__init__()
        self.pts_voxel_encoder = PillarFeatures(config)
        self.bev_size = bev_size

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return int(self.pts_voxel_encoder.pfn_layers[-1].linear.out_features)

    def forward(self, points: Tensor, count: Tensor, coordinates: Tensor, samples: int) -> Tensor:
        """Pillars to a BEV map [N, channels, x, y].

        Args:
            points: [V, P, F], whatever in empty slots.
            count: [V] filled slots of each pillar, which come first.
            coordinates: [V, 4] int32: sample, x, y, z.
            samples: N.
        """
        size_x, size_y = self.bev_size
        dense = points.new_zeros(samples * size_x * size_y, self.out_channels)
        if len(points):
            filled = torch.arange(points.shape[1], device=points.device) < count[:, None]
            pillars = self.pts_voxel_encoder(points * filled[..., None])
            sample, x, y, _ = coordinates.long().unbind(1)
            # No two pillars share a row: copying them in any order gives the same map.
            dense = dense.index_copy(0, (sample * size_x + x) * size_y + y, pillars)
        return dense.view(samples, size_x, size_y, -1).permute(0, 3, 1, 2)


class PillarEncoder(PointEncoder):
    """Points to a BEV map [N, channels, x, y].

    Example: a grid of 512 × 512 pillars, whose lower corner is at -51.2 m, -51.2 m, -5 m::

        encoder = PillarEncoder(config.lidar, lower=(-51.2, -51.2, -5.0), grid=(512, 512, 1))
        bev = encoder(batch)
    """

    def __init__(self, config: PillarConfig, lower: Sequence[float], grid: tuple[int, int, int]) -> None:
        super().__init__(config, lower, grid)
        self.backbone = PillarBackbone(config, grid[:2])
        self.add_decoder()

    def encoded(self, batch: Batch) -> Tensor:
        """The pillars' BEV map of the batch's points."""
        found = self.gathered(voxel_points, batch)
        return self.backbone(self.described(found), found.count, found.coordinates, len(batch))

    def described(self, found: VoxelPoints) -> Tensor:
        """The numbers that describe each point, [V, P, F]; those of empty slots are to be ignored.

        In this order: the point's values, its offset from the mean of the pillar's points along x, y, z, and its offset
        from the pillar's centre.
        """
        points, place = found.points, found.points[..., :3]
        mean = place.sum(dim=1, keepdim=True) / found.count[:, None, None]
        axes = self.config.centre_offsets
        size = points.new_tensor(self.config.voxel_size)
        centre = (found.coordinates[:, 1:] + 0.5) * size + points.new_tensor(self.lower)
        values = (points * self.point_scale)[..., : self.config.point_values]
        return torch.cat([values, place - mean, (place - centre[:, None])[..., :axes]], dim=2)
