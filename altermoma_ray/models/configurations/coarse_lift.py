"""The section of a configuration that describes a neck and a plain view transform on coarse picture features.

Published figures: the camera-radar variant of Liu et al., *BEVFusion*, ICRA 2023.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from altermoma_ray.models.configurations.section import Interval, Section, cells


class CoarseLiftConfig(Section):
    """Neck (SECOND's FPN on pictures) and view transform (plain LSS, straight to the fused map's cells).

    >>> CoarseLiftConfig().neck, CoarseLiftConfig().bev_size
    (512, (128, 128))
    """

    depth_net: ClassVar[None] = None
    """No LiDAR depth is read."""

    feature_stride: int = Field(16, ge=1)
    """Pixels a feature cell, along either axis."""
    levels: tuple[int, ...] = (128, 128, 128, 128)
    """Channels that each of the backbone's maps contributes to the neck's output."""
    depth_bins: Interval = (1.0, 60.0, 1.0)
    """Depths (m) along a pixel's ray; the upper edge is exclusive."""
    channels: int = Field(64, ge=1)
    """Channels lifted to the BEV map."""
    grid_x: Interval = (-51.2, 51.2, 0.8)
    """BEV grid of the lifted features (m)."""
    grid_y: Interval = (-51.2, 51.2, 0.8)
    grid_z: Interval = (-10.0, 10.0, 20.0)
    """Height slabs (m); they are stacked as channels."""

    @model_validator(mode="after")
    def _check(self) -> CoarseLiftConfig:
        stage_channels = getattr(self, "stage_channels", self.levels)
        if len(self.levels) != len(stage_channels):
            raise ValueError(f"`levels` needs one entry for each of the {len(stage_channels)} maps, got {self.levels}")
        return self

    @property
    def neck(self) -> int:
        """Channels of the neck's output."""
        return sum(self.levels)

    @property
    def bev_size(self) -> tuple[int, int]:
        """Cells (x, y) of the camera branch's BEV map."""
        return cells(self.grid_x), cells(self.grid_y)
