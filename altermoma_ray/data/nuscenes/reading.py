"""Ways to read a user's data set which differs a little from nuScenes' own."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator

PUBLISHED_COLUMNS = ("x", "y", "z", "intensity", "ring")
"""The float32 columns of a LiDAR file of nuScenes."""
_COLUMNS = (*PUBLISHED_COLUMNS, "time")
_IGNORED = ("-", "_")


class Reading(BaseModel):
    """The user's way to read a data set; by default, strictly in nuScenes' own layout.

    >>> Reading(skip_invalid=True).is_default
    False
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip_invalid: bool = False
    """Leave out annotations with impossible numbers, instead of refusing the data set."""
    # Separate from `skip_invalid`: a missing file is often meant (part of an archive), an impossible number never is.
    partial: bool = False
    """Leave out scenes whose files are missing, and do without missing sweeps."""
    lidar_columns: tuple[str, ...] | None = None
    """Names of the float32 columns of a LiDAR file, in their order; None for nuScenes' x, y, z, intensity, ring.

    ``_`` or ``-`` stands for a column to ignore. A missing intensity counts as 0; rings and times are not used.
    """
    follow_links: bool = False
    """Follow links out of the dataroot wherever they lie below it, not only those directly below it."""

    @field_validator("lidar_columns")
    @classmethod
    # The published columns become None: both spellings of one layout must share an index and its cache.
    def _check_columns(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in columns or ():
            if name not in (*_COLUMNS, *_IGNORED):
                raise ValueError(f"unknown column {name!r}; choose out of {', '.join(_COLUMNS)}, and _ for any other")
            if name not in _IGNORED and columns.count(name) > 1:
                raise ValueError(f"column {name!r} occurs twice; name each column once, and _ what is to be ignored")
        # Intensity and ring may be missing, as their values default to 0; a point without a coordinate is none.
        missing = [axis for axis in "xyz" if columns is not None and axis not in columns]
        if missing:
            raise ValueError(f"LiDAR columns need x, y and z, but {', '.join(missing)} is missing; name all columns")
        return None if columns == PUBLISHED_COLUMNS else columns

    @property
    def is_default(self) -> bool:
        return self == AS_PUBLISHED


AS_PUBLISHED = Reading()
"""The data set is read in the layout of nuScenes' own."""
