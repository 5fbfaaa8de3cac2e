"""The section of a configuration that describes a map segmentation head."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from altermoma_ray.data.raster import RasterConfig


class SegmentationHeadConfig(RasterConfig):
    """Map segmentation head, its raster and its loss.

    >>> SegmentationHeadConfig().cells
    200
    """

    title: ClassVar[str] = "map segmentation"

    hidden: int = Field(default=512, ge=1)
    """Channels of the two 3×3 convolutions."""
    bev_size: tuple[int, int] = (128, 128)
    """Cells of the decoder's map (x, y)."""
    cell_size: tuple[float, float] = (0.8, 0.8)
    """Cell of the decoder's map (x, y), metres."""
    origin: tuple[float, float] = (-51.2, -51.2)
    """Lower corner of the decoder's map (x, y) in the augmented lidar frame, metres."""
    focal_gamma: float = Field(default=2.0, ge=0)
    """Focus of the focal loss."""
