"""The radar encoder: returns in pillars, linear layers on each return, the maximum over a pillar's returns.

Notation: P returns of a sample, K returns of the batch that count; BEV maps are [N, channel, x, y]. Sources: Lang et
al., *PointPillars*, CVPR 2019; Liu et al., *BEVFusion*, ICRA 2023 (figures of its camera-radar variant). Deviation: the
published code fills each pillar up to its most returns with zeros, which pass the layers and enter the maximum and the
normalisation; here a pillar holds its returns alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.data.radar import VALUES
from altermoma_ray.models.configurations.radar import RadarConfig
from altermoma_ray.models.encoders.lidar import VoxelNorm

INPUTS = VALUES + 2
"""Values of a return with its offset, along x and y, to the centre of its pillar (m)."""


class RadarLayers(nn.Module):
    """Returns [K, 47] and their cells to a BEV map [N, channels, x, y]; cells without a return are zero."""

    def __init__(self, config: RadarConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        layers: list[nn.Module] = []
        for inputs, outputs in zip((INPUTS, *config.channels), config.channels):  # noqa: B905 (one input more)
            layers += [nn.Linear(inputs, outputs, bias=False), VoxelNorm(outputs, config.norm_momentum), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return int(self.layers[-3].out_features)

    def forward(self, returns: Tensor, cells: Tensor, samples: int) -> Tensor:
        """A BEV map [N, channels, x, y].

        Args:
            returns: [K, 47].
            cells: [K] int64, the number of each return's cell: (sample · X + x) · Y + y.
            samples: N.
        """
        features = self.layers(returns)
        # The layers end with a ReLU: no return is below the zeros of an empty cell.
        bev = features.new_zeros(samples * self.grid[0] * self.grid[1], features.shape[1])
        bev = bev.scatter_reduce(0, cells[:, None].expand_as(features), features, "amax")
        return bev.view(samples, *self.grid, -1).permute(0, 3, 1, 2)


class RadarEncoder(nn.Module):
    """A batch's radar returns to a BEV map [N, channels, x, y].

    Example: 128 × 128 pillars of 0.8 m::

        encoder = RadarEncoder(RadarConfig(), (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0))
        bev = encoder(batch)  # [N, 64, 128, 128]
    """

    lower: Tensor
    extent: Tensor
    size: Tensor

    def __init__(self, config: RadarConfig, point_range: Sequence[float]) -> None:
        super().__init__()
        self.config = config
        low, high = torch.tensor(point_range[:3]), torch.tensor(point_range[3:])
        self.register_buffer("lower", low, persistent=False)
        self.register_buffer("extent", high - low, persistent=False)
        self.register_buffer("size", torch.tensor(config.pillar_size), persistent=False)
        x, y = ((high - low)[:2] / self.size).round().long().tolist()
        self.backbone = RadarLayers(config, (x, y))

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.backbone.out_channels

    def forward(self, batch: Batch) -> Tensor:
        """A BEV map [N, channels, x, y] of the batch's radar returns."""
        found = [self._sample(returns) for returns in batch.radar]
        x, y = self.backbone.grid
        cells = torch.cat([cell + sample * x * y for sample, (_, cell) in enumerate(found)])
        return self.backbone(torch.cat([returns for returns, _ in found]), cells, len(batch))

    def _sample(self, returns: Tensor) -> tuple[Tensor, Tensor]:
        """One sample's returns [P, 45] that count, as [K, 47] in the order of their cells, and their cells [K]."""
        x, y = self.backbone.grid
        pillar = ((returns[:, :2] - self.lower[:2]) / self.size).floor()
        inside = ((pillar >= 0) & (pillar < pillar.new_tensor([x, y]))).all(1)
        returns, pillar = returns[inside], pillar[inside]
        cell, order = torch.sort((pillar[:, 0] * y + pillar[:, 1]).long(), stable=True)
        counts = _place_in_run(cell) < self.config.max_points
        order = order[counts]
        returns, pillar = returns[order], pillar[order]
        offset = returns[:, :2] - self.lower[:2] - (pillar + 0.5) * self.size
        scaled = (returns[:, :3] - self.lower) / self.extent
        return torch.cat([scaled, returns[:, 3:], offset], dim=1), cell[counts]


def _place_in_run(values: Tensor) -> Tensor:
    """[K] int64: how many equal values stand directly before each of sorted values.

    >>> _place_in_run(torch.tensor([3, 3, 3, 5, 8, 8])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    _, lengths = torch.unique_consecutive(values, return_counts=True)
    begins = lengths.cumsum(0) - lengths
    return torch.arange(len(values), device=values.device) - begins.repeat_interleave(lengths)
