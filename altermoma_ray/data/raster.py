"""Which rasters of the map a model learns from, in the model's inputs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# The order is the order of the released head's output channels: another order would mix up the classes.
MAP_CLASSES = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider")
"""The classes of the published BEVFusion, in its order; a divider separates roads or lanes."""


class RasterConfig(BaseModel):
    """Square masks of the map about the LiDAR.

    >>> RasterConfig(extent=25.0, cells=100).classes[-1]
    'divider'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(default=MAP_CLASSES, min_length=1)
    """Layers of the devkit's map; ``divider`` stands for ``road_divider`` and ``lane_divider`` together."""
    extent: float = Field(default=50.0, gt=0)
    """The raster covers −extent to extent along x and y of the augmented lidar frame (m)."""
    cells: int = Field(default=200, ge=1)
    """Cells along each side."""
