"""The section of a configuration that describes an anchor head.

Source: Lang et al., *PointPillars*, CVPR 2019; the usual figures are those of BEVFusion-pku's PointPillars stream
(Liang et al., *BEVFusion: A Simple and Robust LiDAR-Camera Fusion Framework*, NeurIPS 2022). Bird's-eye-view (BEV) maps
are [N, channel, x, y].
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from altermoma_ray.models.configurations.section import Section

Length = Annotated[float, Field(gt=0)]


class AnchorHeadConfig(Section):
    """Anchor head, the assignment of anchors to objects, its losses and the suppression of neighbouring boxes.

    >>> AnchorHeadConfig().anchors_per_cell
    14
    """

    title: ClassVar[str] = "anchor"

    num_classes: int = Field(10, ge=1)
    anchor_sizes: tuple[tuple[Length, Length, Length], ...] = Field(
        (
            (4.61, 1.95, 1.72),
            (6.74, 2.46, 2.73),
            (12.01, 2.87, 3.82),
            (1.68, 0.60, 1.27),
            (0.73, 0.66, 1.76),
            (0.40, 0.40, 1.06),
            (0.49, 2.49, 0.98),
        ),
        min_length=1,
    )
    """Length, width, height (m) of the anchors: car, truck, trailer, bicycle, pedestrian, traffic cone, barrier."""
    anchor_bottoms: tuple[float, ...] = (-1.80, -1.74, -1.69, -1.67, -1.62, -1.81, -1.76)
    """z of the bottom of each anchor size (m, lidar frame)."""
    headings: tuple[float, ...] = Field((0.0, math.pi / 2), min_length=1)
    """Yaws of the anchors of each size (rad)."""
    anchor_range: tuple[float, float, float, float] = (-49.6, -49.6, 49.6, 49.6)
    """Outer edges x0, y0, x1, y1 (m) of the anchors' grid, which has as many cells as the map. As published, this grid
    is a little smaller than the map."""
    bev_size: tuple[int, int] = (200, 200)
    """Cells of the map (x, y)."""
    cell_size: tuple[float, float] = (0.5, 0.5)
    """Cell of the map (x, y), metres."""
    origin: tuple[float, float] = (-50.0, -50.0)
    """Lower corner of the map (x, y) in the augmented lidar frame, metres."""
    positive_overlap: float = Field(0.6, gt=0, le=1)
    """Least IoU on the ground, of boxes turned to the nearest axis, at which an anchor is an object's."""
    negative_overlap: float = Field(0.3, gt=0, le=1)
    """IoU below which an anchor is background; between both, an anchor teaches nothing."""
    least_overlap: float = Field(0.3, ge=0, le=1)
    """An object's best anchors are its own at this IoU already."""
    focal_gamma: float = Field(2.0, ge=0)
    focal_alpha: float = Field(0.25, gt=0, lt=1)
    loss_class: float = 1.0
    """Weight of the focal loss of the classes."""
    loss_box: float = 1.0
    """Weight of the smooth L1 loss of the boxes."""
    loss_direction: float = 0.2
    """Weight of the cross-entropy of the directions."""
    smooth_until: float = Field(1 / 9, gt=0)
    """Error up to which the smooth L1 loss is quadratic."""
    box_weights: tuple[float, ...] = Field((1.0,) * 7 + (0.2, 0.2), min_length=9, max_length=9)
    """Factors inside that loss: x, y, z, log length, log width, log height, yaw, velocity x, y."""
    direction_offset: float = 0.7854
    """Yaw (rad) at which the first of the two directions begins; the second begins half a turn later."""
    candidates: int = Field(1000, ge=1)
    """Anchors of a sample that are looked at, those of the highest scores."""
    least_score: float = Field(0.05, ge=0, lt=1)
    """Boxes of a lower score are dropped."""
    overlap: float = Field(0.2, ge=0, le=1)
    """IoU on the ground above which a box suppresses others of its class."""
    most_kept: int = Field(500, ge=1)
    """Boxes that a sample keeps."""

    @model_validator(mode="after")
    def _check(self) -> AnchorHeadConfig:
        if len(self.anchor_bottoms) != len(self.anchor_sizes):
            raise ValueError(
                f"`anchor_bottoms` needs one entry for each of {len(self.anchor_sizes)} sizes, but got "
                f"{self.anchor_bottoms}"
            )
        if self.negative_overlap > self.positive_overlap:
            raise ValueError(
                "`negative_overlap <= positive_overlap` must hold, but got "
                f"(negative_overlap={self.negative_overlap}, positive_overlap={self.positive_overlap})"
            )
        return self

    @property
    def anchors_per_cell(self) -> int:
        """Every size in every heading."""
        return len(self.anchor_sizes) * len(self.headings)
