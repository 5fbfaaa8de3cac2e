"""The section of a configuration that describes a map segmentation head."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MAP_CLASSES = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider")
"""The classes of the published BEVFusion, in its order; a divider separates roads or lanes."""


class SegmentationHeadConfig(BaseModel):
    """Map segmentation head, its raster and its loss.

    >>> SegmentationHeadConfig().cells
    200
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(default=MAP_CLASSES, min_length=1)
    """Names of the classes, in the order of the logits."""
    hidden: int = Field(default=512, ge=1)
    """Channels of the two 3×3 convolutions."""
    extent: float = Field(default=50.0, gt=0)
    """The raster covers −extent to extent along x and y (m)."""
    cells: int = Field(default=200, ge=1)
    """Cells along each side of the raster."""
    bev_size: tuple[int, int] = (128, 128)
    """Cells of the decoder's map (x, y)."""
    cell_size: tuple[float, float] = (0.8, 0.8)
    """Cell of the decoder's map (x, y), metres."""
    origin: tuple[float, float] = (-51.2, -51.2)
    """Lower corner of the decoder's map (x, y) in the augmented lidar frame, metres."""
    focal_gamma: float = Field(default=2.0, ge=0)
    """Focus of the focal loss."""
