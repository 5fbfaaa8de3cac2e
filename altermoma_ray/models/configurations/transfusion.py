"""The section of a configuration that describes a TransFusion head.

Published figures: Bai et al., *TransFusion*, CVPR 2022. Bird's-eye-view (BEV) maps are [N, channel, x, y].
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from altermoma_ray.models.configurations.section import Section

Height = Literal["bottom", "centre", "top"]
"""The point of a box whose z a head regresses."""


class TransFusionHeadConfig(Section):
    """TransFusion head, its matching and its losses."""

    num_classes: int = 10
    hidden: int = 128
    """Channels of the query features."""
    branch_hidden: int = 64
    """Channels inside each prediction branch."""
    proposals: int = Field(200, ge=1)
    """Queries, taken at the best local maxima of the heatmap."""
    layers: int = Field(1, ge=1)
    """Transformer decoder layers."""
    heads: int = 8
    feed_forward: int = 256
    dropout: float = Field(0.1, ge=0, lt=1)
    heatmap_kernel: int = 3
    """Side of the convolutions of the heatmap and of its local maxima (odd)."""
    classes_with_1x1: tuple[int, ...] = (8, 9)
    """Classes every cell of which is its own local maximum (pedestrian and traffic cone)."""
    bev_size: tuple[int, int] = (180, 180)
    """Cells of the map (x, y)."""
    cell_size: tuple[float, float] = (0.6, 0.6)
    """Cell of the map (x, y), metres."""
    origin: tuple[float, float] = (-54.0, -54.0)
    """Lower corner of the map (x, y) in the augmented lidar frame, metres."""
    match_class: float = 0.15
    """Weight of the focal cost in the Hungarian matching."""
    match_box: float = 0.25
    """Weight of the L1 cost of the BEV centre."""
    match_iou: float = 0.25
    """Weight of the 3D IoU cost."""
    loss_heatmap: float = 1.0
    """Weight of the Gaussian focal loss of the heatmap."""
    loss_class: float = 1.0
    """Weight of the focal loss of the queries' classes."""
    loss_box: float = 0.25
    """Weight of the L1 loss of the queries' boxes."""
    box_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
    """Factors inside that L1: centre x, y, height z, log length, log width, log height, sin, cos, velocity x, y."""
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    gaussian_overlap: float = 0.1
    """IoU that a box shifted by the Gaussian's radius must keep."""
    gaussian_min_radius: int = 2
    """Least radius of a box in the heatmap target, cells."""
    height: Height = "centre"
    """What the weights learned ``height`` to be the z of; a release brings its own
    (:mod:`altermoma_ray.models.releases.bevfusion`)."""

    @model_validator(mode="after")
    def _check(self) -> TransFusionHeadConfig:
        if self.hidden % self.heads:
            raise ValueError(f"`hidden` must divide by `heads`, but got (hidden={self.hidden}, heads={self.heads})")
        if self.heatmap_kernel % 2 == 0:
            raise ValueError(f"`heatmap_kernel` must be odd, but got {self.heatmap_kernel}")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the usual ``height`` out: checkpoints without the field have it, and hashes are made of this text."""
        fields: dict[str, Any] = dump(self)
        if fields.get("height") == "centre":
            del fields["height"]
        return fields
