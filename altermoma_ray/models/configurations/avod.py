"""The configuration of AVOD-FPN, a camera-LiDAR detector of two stages on KITTI.

Published figures: Ku et al., *Joint 3D Proposal Generation and Object Detection from View Aggregation*, IROS 2018, and
the authors' code (kujason/avod). The named models are in :mod:`altermoma_ray.models.configurations.avod_fpn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.models.configurations.section import Section

if TYPE_CHECKING:
    from altermoma_ray.models.avod import Avod

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Metres = Annotated[float, Field(gt=0)]
Size = tuple[Metres, Metres, Metres]
"""Length, width, height (m)."""

POOLINGS = 3
"""Halvings of a view by its extractor."""


class PyramidConfig(Section):
    """The feature extractor of one view: an encoder like VGG, and a decoder back to the view's own resolution."""

    channels: tuple[Positive, Positive, Positive, Positive] = (32, 64, 128, 256)
    """Channels of the encoder's four stages; the extractor's map has those of the first."""
    layers: tuple[Positive, Positive, Positive, Positive] = (2, 2, 3, 3)
    """3 × 3 convolutions of each stage."""
    norm_momentum: float = Field(0.001, gt=0, le=1)
    """Share of a frame in the running statistics of normalisation."""


class ProposalConfig(Section):
    """The first stage: anchors on the ground, and their changes to proposals."""

    stride: Metres = 0.5
    """Distance of neighbouring anchors along x and z."""
    sizes: tuple[tuple[Size, ...], ...]
    """Sizes of the anchors of each type, in the order of the inputs' ``types``."""
    ground_gap: float = 0.2
    """Points lower than this above the ground (m) leave an anchor empty."""
    ceiling: float = 2.0
    """Points this high or higher above the ground (m) leave an anchor empty."""
    crop: Positive = 3
    """Cells of a crop along each side."""
    hidden: Positive = 256
    """Channels of the two layers of each branch."""
    dropout: float = Field(0.5, ge=0, lt=1)
    overlap: Share = 0.8
    """IoU on the ground above which a proposal suppresses another."""
    kept_in_training: Positive = 1024
    """Proposals of a frame in training mode."""
    kept: Positive = 1024
    """Proposals of a frame in evaluation mode."""
    positive: tuple[Share, ...]
    """IoU on the ground with an object of each type above which an anchor is the object's."""
    negative: tuple[Share, ...]
    """IoU below which an anchor is background; between the two it teaches nothing."""
    mini_batch: Positive = 512
    """Anchors that a frame's loss is made of, at most half of them objects'."""


class BoxConfig(Section):
    """The second stage: the class, the box and the heading of each proposal, and the choice of detections."""

    crop: Positive = 7
    """Cells of a crop along each side."""
    hidden: tuple[Positive, ...] = Field((2048, 2048, 2048), min_length=1)
    """Outputs of each fully connected layer."""
    dropout: float = Field(0.5, ge=0, lt=1)
    positive: tuple[Share, ...]
    """IoU on the ground with an object of each type above which a proposal is the object's."""
    negative: tuple[Share, ...]
    """IoU below which a proposal is background; between the two it teaches nothing."""
    mini_batch: Positive = 1024
    """Proposals that a frame's loss is made of, at most half of them objects'."""
    overlap: Share = 0.01
    """IoU on the ground above which a detection suppresses another."""
    most_kept: Positive = 100
    """Detections of a frame."""
    least_score: Share = 0.1
    """Detections of a lower score are dropped."""


class AvodConfig(Section):
    """AVOD-FPN. Its sections must agree; that is checked here and nowhere else.

    >>> from altermoma_ray.models.configurations.avod_fpn import avod_configuration
    >>> avod_configuration("avod-fpn-people").inputs.types
    ('Pedestrian', 'Cyclist')
    """

    name: str
    """Name of the configuration; part of registered names and of cache keys."""
    inputs: KittiInputs
    camera: PyramidConfig = PyramidConfig()
    """The extractor of pictures."""
    lidar: PyramidConfig = PyramidConfig()
    """The extractor of bird's-eye-view maps."""
    proposals: ProposalConfig
    boxes: BoxConfig
    keep_camera: float = Field(0.9, gt=0, le=1)
    """Probability with which a frame keeps its picture's features in training."""
    keep_lidar: float = Field(0.9, gt=0, le=1)
    """Probability with which a frame keeps its bird's-eye view's features in training."""
    label_smoothing: Share = 0.001
    """Share of a label that is spread over the other classes."""
    loss_class: float = 1.0
    """Weight of the cross entropies of both stages."""
    loss_box: float = 5.0
    """Weight of the box losses of both stages."""
    loss_angle: float = 1.0
    """Weight of the heading's loss."""

    @property
    def modalities(self) -> tuple[str, str]:
        """The views, in the order in which Algorithm 1 of AlterMOMA masks them."""
        return ("camera", "lidar")

    @model_validator(mode="after")
    def _check(self) -> AvodConfig:
        types = self.inputs.types
        for name, values in (
            ("proposals.sizes", self.proposals.sizes),
            ("proposals.positive", self.proposals.positive),
            ("proposals.negative", self.proposals.negative),
            ("boxes.positive", self.boxes.positive),
            ("boxes.negative", self.boxes.negative),
        ):
            if len(values) != len(types):
                raise ValueError(f"`{name}` needs one entry for each of {', '.join(types)}, but got {values}")
        for stage, section in (("proposals", self.proposals), ("boxes", self.boxes)):
            if any(low > high for low, high in zip(section.negative, section.positive, strict=True)):
                raise ValueError(
                    f"`{stage}.negative <= {stage}.positive` must hold, but got "
                    f"(negative={section.negative}, positive={section.positive})"
                )
        if self.camera.channels[0] != self.lidar.channels[0]:
            raise ValueError(
                "the views are fused by their mean: `camera.channels` and `lidar.channels` must begin with the same "
                f"number, but got {self.camera.channels[0]} and {self.lidar.channels[0]}"
            )
        # Rows of the bird's-eye view are padded; nothing else is.
        parts = 2**POOLINGS
        if any(side % parts for side in (*self.inputs.image_size, self.inputs.bev_size[1])):
            raise ValueError(
                f"the extractors halve a view {POOLINGS} times: `inputs.image_size` and the columns of the bird's-eye "
                f"view must divide by {parts}, but got {self.inputs.image_size} and {self.inputs.bev_size[1]}"
            )
        return self

    def build(self) -> Avod:
        """A new model with random weights."""
        from altermoma_ray.models.avod import Avod  # whose parts import their sections from here

        return Avod(self)
