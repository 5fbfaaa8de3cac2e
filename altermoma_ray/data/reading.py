"""How a user's data set is read where it is not quite as nuScenes publishes its own."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Reading(BaseModel):
    """The user's word on a data set that differs from the published one; the default takes nothing but that.

    >>> Reading(skip_invalid=True).is_default
    False
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip_invalid: bool = False
    """Leave out annotations whose numbers cannot be, instead of refusing the data set."""
    partial: bool = False
    """Leave out scenes whose files are missing, and do without missing sweeps."""
    lidar_columns: tuple[str, ...] | None = None
    """Names of the float32 columns of a LiDAR file, in their order; None for nuScenes' x, y, z, intensity, ring."""
    follow_links: bool = False
    """Follow links out of the dataroot wherever they lie below it, not only those directly below it."""

    @property
    def is_default(self) -> bool:
        return self == AS_PUBLISHED


AS_PUBLISHED = Reading()
"""The data set is read as nuScenes publishes its own."""
