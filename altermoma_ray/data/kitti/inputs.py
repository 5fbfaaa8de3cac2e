"""The figures of AVOD's inputs: the size of its picture, the cells of its bird's-eye map, and how samples vary."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

Range = tuple[float, float]


class KittiInputs(BaseModel):
    """How a frame becomes a model's input; the defaults are the published figures of AVOD-FPN for cars.

    >>> KittiInputs().bev_size
    (700, 800)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[int, int] = (360, 1200)
    """Height and width of the resized picture (pixels)."""
    image_mean: tuple[float, float, float] = (92.8403, 97.7996, 93.5843)
    """Red, green and blue that are subtracted, of 255."""
    x_range: Range = (-40.0, 40.0)
    """Least and greatest x of the area, rectified camera frame (m)."""
    y_range: Range = (-5.0, 3.0)
    """Least and greatest y of the area; y points down (m)."""
    z_range: Range = (0.0, 70.0)
    """Least and greatest z of the area (m)."""
    cell: float = Field(default=0.1, gt=0)
    """Side of a cell of the bird's-eye map (m)."""
    slice_low: float = -0.2
    """Bottom of the lowest slice over the ground plane (m)."""
    slice_high: float = 2.3
    """Top of the highest slice over the ground plane (m)."""
    slices: int = Field(default=5, ge=1)
    """Number of height slices, all equally thick."""
    types: tuple[str, ...] = Field(default=("Car",), min_length=1)
    """The classes to learn, named as in the label files; labels are positions in this tuple."""
    flip: bool = True
    """Whether training flips every other frame horizontally."""
    colour_jitter: bool = True
    """Whether training adds noise along the principal components of every other picture's colours."""

    @model_validator(mode="after")
    def _check(self) -> KittiInputs:
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be at least 1 x 1, but got {self.image_size}")
        for name in ("x_range", "y_range", "z_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name} must be (low, high) with low < high, but got {(low, high)}")
        for name in ("x_range", "z_range"):
            low, high = getattr(self, name)
            # A part of a cell at the edge would shift every crop by its missing share.
            if abs((high - low) / self.cell - round((high - low) / self.cell)) > 1e-6:
                raise ValueError(f"{name} must be a whole number of cells of {self.cell:g} m, but got {(low, high)}")
        if not self.slice_low < self.slice_high:
            raise ValueError(f"slice_low must be below slice_high, but got {self.slice_low:g} and {self.slice_high:g}")
        if len(set(self.types)) < len(self.types):
            raise ValueError(f"types must differ from each other, but got {', '.join(self.types)}")
        return self

    @property
    def bev_size(self) -> tuple[int, int]:
        """Cells of the bird's-eye map along z (rows) and x (columns)."""
        (x0, x1), (z0, z1) = self.x_range, self.z_range
        return round((z1 - z0) / self.cell), round((x1 - x0) / self.cell)

    @property
    def bev_channels(self) -> int:
        """Channels of the bird's-eye map: one for each slice, and the density."""
        return self.slices + 1
