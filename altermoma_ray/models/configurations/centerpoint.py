"""The section of a configuration that describes a CenterPoint head.

Source: Yin et al., *Center-based 3D Object Detection and Tracking*, CVPR 2021. The usual figures are those of a LiDAR
model in BEVFusion's published code. Bird's-eye-view (BEV) maps are [N, channel, x, y].
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from altermoma_ray.models.configurations.section import Section
from altermoma_ray.models.configurations.transfusion import Height

Suppression = Literal["circle", "rotated"]
"""How a group's boxes suppress each other: by the distance of their centres, or by the overlap on the ground."""


class CenterPointHeadConfig(Section):
    """CenterPoint head, its losses and the suppression of neighbouring boxes.

    Classes of like size form a group, with a heat map and regressions of its own.

    >>> CenterPointHeadConfig().num_classes
    10
    """

    title: ClassVar[str] = "CenterPoint"

    class_groups: tuple[tuple[int, ...], ...] = ((0,), (1, 2), (3, 4), (5,), (6, 7), (8, 9))
    """Classes of each group: car; truck and construction vehicle; bus and trailer; barrier; motorcycle and bicycle;
    pedestrian and traffic cone."""
    hidden: int = Field(64, ge=1)
    """Channels of the convolution that all groups share."""
    branch_hidden: int = Field(64, ge=1)
    """Channels inside each prediction branch."""
    bev_size: tuple[int, int] = (180, 180)
    """Cells of the map (x, y)."""
    cell_size: tuple[float, float] = (0.6, 0.6)
    """Cell of the map (x, y), metres."""
    origin: tuple[float, float] = (-54.0, -54.0)
    """Lower corner of the map (x, y) in the augmented lidar frame, metres."""
    loss_heatmap: float = 1.0
    """Weight of the Gaussian focal loss of the heat maps."""
    loss_box: float = 0.25
    """Weight of the L1 loss of the boxes."""
    box_weights: tuple[float, ...] = Field((1.0,) * 8 + (0.2, 0.2), min_length=10, max_length=10)
    """Factors inside that L1: centre x, y, height z, log length, log width, log height, sin, cos, velocity x, y."""
    gaussian_overlap: float = Field(0.1, gt=0, lt=1)
    """IoU that a box shifted by the Gaussian's radius must keep."""
    gaussian_min_radius: int = Field(2, ge=0)
    """Least radius of a box in the heat map target, cells."""
    candidates: int = Field(500, ge=1)
    """Boxes of a group that are looked at, at the hottest cells."""
    least_score: float = Field(0.1, ge=0, lt=1)
    """Candidates of a lower score are dropped."""
    suppression: tuple[Suppression, ...] = ("circle", "rotated", "rotated", "circle", "rotated", "rotated")
    """Of each group."""
    circle_distances: tuple[float, ...] = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)
    """Of each group, the **squared** distance (m²) up to which a centre suppresses others, as the published code has
    it: cars stand 2 m apart. Used by groups with the suppression ``circle``."""
    overlap: float = Field(0.2, ge=0, le=1)
    """IoU on the ground above which a box suppresses others, in groups with the suppression ``rotated``."""
    size_factors: tuple[float, ...] = (1.0,) * 8 + (2.5, 4.0)
    """Of each class, the factor on length and width while overlaps are taken: cones and people are smaller than the
    error of a centre."""
    most_kept: int = Field(83, ge=1)
    """Boxes that a group keeps of a sample."""
    height: Height = "centre"
    """What the weights learned ``height`` to be the z of; a release brings its own
    (:mod:`altermoma_ray.models.releases.bevfusion`)."""

    @model_validator(mode="after")
    def _check(self) -> CenterPointHeadConfig:
        classes = [label for group in self.class_groups for label in group]
        # The heat maps of all groups lie behind each other; the position of a class is its label.
        if not classes or classes != list(range(len(classes))) or not all(self.class_groups):
            raise ValueError(f"`class_groups` must hold 0, 1, ... in their order, but got {self.class_groups}")
        groups = len(self.class_groups)
        for name, values, count, what in (
            ("suppression", self.suppression, groups, "groups"),
            ("circle_distances", self.circle_distances, groups, "groups"),
            ("size_factors", self.size_factors, len(classes), "classes"),
        ):
            if len(values) != count:
                raise ValueError(f"`{name}` needs one entry for each of {count} {what}, but got {values}")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes of all groups."""
        return sum(map(len, self.class_groups))
