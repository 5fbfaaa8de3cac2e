"""The section of a configuration that describes a neck and a view transform whose heights become channels.

Published figures: Liang et al., *BEVFusion: A Simple and Robust LiDAR-Camera Fusion Framework*, NeurIPS 2022.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from altermoma_ray.models.configurations.section import Interval, Section, cells

STRIDE = 8
"""Pixels of the frustum's picture a feature cell."""


class HeightLiftConfig(Section):
    """Neck (feature pyramid with an adaptive module) and view transform (LSS into voxels, heights folded).

    >>> HeightLiftConfig().feature_size, HeightLiftConfig().bev_size, HeightLiftConfig().heights
    ((112, 200), (180, 180), 13)
    """

    neck: int = Field(256, ge=1)
    """Channels of every level of the pyramid, and of the neck's output."""
    levels: int = Field(5, ge=1)
    """Levels of the pyramid; those beyond the backbone's maps come from the coarsest one by pooling with stride 2."""
    original_size: tuple[int, int] = (900, 1600)
    """Height and width of the picture on which the frustum lies (pixels): nuScenes' picture before resizing."""
    shown_size: tuple[int, int] = (448, 796)
    """Height and width of the same picture in the model's picture (pixels), which may be padded right and below."""
    depth_bins: Interval = (4.0, 45.0, 1.0)
    """Depths (m) along a pixel's ray; the upper edge is exclusive."""
    channels: int = Field(64, ge=1)
    """Channels lifted to the voxels."""
    grid_x: Interval = (-54.0, 54.0, 0.6)
    """Voxels of the lifted features (m)."""
    grid_y: Interval = (-54.0, 54.0, 0.6)
    grid_z: Interval = (-5.0, 2.8, 0.6)
    """Heights (m). The published grid ends at 3 m, of which whole voxels alone count."""
    bev: tuple[int, int, int] = (512, 512, 256)
    """Channels of the last three of the four convolutions on the folded map; the first one keeps the map's channels."""

    @model_validator(mode="after")
    def _check(self) -> HeightLiftConfig:
        for name, size in (("original_size", self.original_size), ("shown_size", self.shown_size)):
            if min(size) < STRIDE:
                raise ValueError(f"`{name}` must be a height and a width of {STRIDE} pixels or more, but got {size}")
        return self

    @property
    def feature_size(self) -> tuple[int, int]:
        """Rows and columns of feature cells in a picture."""
        return self.original_size[0] // STRIDE, self.original_size[1] // STRIDE

    @property
    def bev_size(self) -> tuple[int, int]:
        """Cells (x, y) of the camera branch's BEV map."""
        return cells(self.grid_x), cells(self.grid_y)

    @property
    def heights(self) -> int:
        """Z, the voxels along z that are folded into channels."""
        return cells(self.grid_z)
