"""The section of a configuration that describes a LiDAR branch of pillars.

Source: Lang et al., *PointPillars: Fast Encoders for Object Detection from Point Clouds*, CVPR 2019. The usual figures
are those of the LiDAR model with pillars in BEVFusion's published code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from altermoma_ray.models.configurations.points import PointBranchConfig


class PillarConfig(PointBranchConfig):
    """Columns of the space above a BEV cell, each described by its points.

    >>> PillarConfig().in_channels
    10
    """

    voxel_size: tuple[float, float, float] = (0.2, 0.2, 8.0)
    """x, y, z of a pillar (m); z is the height of the whole point range."""
    max_points: int = Field(20, ge=1)
    """Points of a pillar that count, first come."""
    max_voxels_train: int = Field(30_000, ge=1)
    """Pillars of a sample in training, first come."""
    max_voxels_test: int = Field(60_000, ge=1)
    """Pillars of a sample otherwise."""
    point_values: Literal[4, 5] = 5
    """Values of a point: x, y, z, intensity and, as the fifth, the time lag."""
    point_scale: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors on x, y, z, intensity and time lag before the first layer."""
    centre_offsets: Literal[2, 3] = 2
    """Axes along which a point's offset from the pillar's centre counts: x and y, or z too."""
    units: tuple[Annotated[int, Field(ge=1)], ...] = Field((32, 64), min_length=1)
    """Outputs of each layer. A layer but the last hands on twice as many: each point's outputs and, behind them, their
    maxima over the pillar."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""

    @property
    def in_channels(self) -> int:
        """Numbers that describe a point: its values, its offset from the pillar's mean, and from its centre."""
        return self.point_values + 3 + self.centre_offsets

    @property
    def stride(self) -> int:
        """Pillars a BEV cell, along x and y."""
        return 1

    @property
    def encoder_cell_size(self) -> tuple[float, float]:
        """Cell of the pillars' BEV map (x, y), metres."""
        return self.voxel_size[0], self.voxel_size[1]
