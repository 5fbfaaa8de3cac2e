"""The sections of a configuration that describe a camera branch: a backbone, the neck and the view transform.

A camera branch is one section, with the fields of its backbone beside the others. The name of a field tells the
backbone: only a Swin transformer has ``embed``, and only a ResNet has ``blocks``. Only a view transform that folds
heights has ``shown_size``, and only one of coarse features has ``feature_stride``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag, model_validator

from altermoma_ray.models.configurations.coarse_lift import CoarseLiftConfig
from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.configurations.section import Interval, Section, cells, fields_of


class SwinConfig(Section):
    """Swin transformer (Liu et al., ICCV 2021); the usual figures are Swin-T's."""

    first_output: ClassVar[int] = 1
    """The first stage whose output is used."""

    embed: int = 96
    """Channels of the first stage; every later stage has twice as many."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    window: int = 7
    """Side of an attention window, in tokens."""
    stochastic_depth: float = Field(0.2, ge=0, lt=1)
    """Probability to skip the last block of a sample in training; rises linearly from 0 at the first block."""

    @model_validator(mode="after")
    def _check(self) -> SwinConfig:
        if len(self.depths) != len(self.heads) or len(self.depths) < 3:
            raise ValueError(f"`depths` and `heads` need the same length, 3 or more; got {self.depths}, {self.heads}")
        for stage, heads in enumerate(self.heads):
            if (self.embed << stage) % heads:
                raise ValueError(
                    f"the channels of stage {stage} ({self.embed << stage}) must divide by its {heads} heads"
                )
        return self

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the backbone's outputs, finest first."""
        return tuple(self.embed << stage for stage in range(self.first_output, len(self.depths)))


class ResNetConfig(Section):
    """ResNet of bottleneck blocks (He et al., CVPR 2016); the usual figures are ResNet-101's.

    >>> ResNetConfig(blocks=(3, 4, 6, 3)).stage_channels  # ResNet-50
    (512, 1024, 2048)
    """

    first_output: ClassVar[int] = 1
    """The first stage whose output is used."""

    blocks: tuple[Annotated[int, Field(ge=1)], ...] = Field((3, 4, 23, 3), min_length=3)
    """Bottleneck blocks of each stage."""
    width: int = Field(64, ge=1)
    """Channels of the first convolution, and inside each block of the first stage; every later stage has twice as many
    inside, and every block four times as many at its output."""

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the backbone's outputs, finest first."""
        return tuple(4 * self.width << stage for stage in range(self.first_output, len(self.blocks)))


class LiftConfig(Section):
    """Neck (LSS FPN) and view transform (depth LSS)."""

    neck: int = 256
    """Channels of the neck's output at an eighth of the picture's size."""
    depth_bins: Interval = (1.0, 60.0, 0.5)
    """Depths (m) along a pixel's ray; the upper edge is exclusive."""
    depth_net: tuple[int, int, int] | None = (8, 32, 64)
    """Channels of the three convolutions on the LiDAR depth picture; None lifts without LiDAR depth."""
    channels: int = 80
    """Channels lifted to the BEV map."""
    grid_x: Interval = (-54.0, 54.0, 0.3)
    """BEV grid of the lifted features (m)."""
    grid_y: Interval = (-54.0, 54.0, 0.3)
    grid_z: Interval = (-10.0, 10.0, 20.0)
    """Height slabs (m); they are stacked as channels."""
    downsample: int = Field(2, ge=1)
    """Stride from that grid to the fused BEV map."""

    @property
    def bev_size(self) -> tuple[int, int]:
        """Cells (x, y) of the camera branch's BEV map."""
        return tuple(math.ceil(cells(axis) / self.downsample) for axis in (self.grid_x, self.grid_y))  # type: ignore[return-value]


# The backbone is the last base class: pydantic writes its fields first, as checkpoints and hashes of them have it.
class SwinCameraConfig(LiftConfig, SwinConfig):
    """A camera branch with a Swin transformer, as published."""


class ResNetCameraConfig(LiftConfig, ResNetConfig):
    """A camera branch with a ResNet."""


class HeightSwinCameraConfig(HeightLiftConfig, SwinConfig):
    """A camera branch with folded heights and one Swin transformer, or two in composite.

    >>> HeightSwinCameraConfig().stage_channels
    (96, 192, 384, 768)
    """

    first_output: ClassVar[int] = 0
    dual: bool = False
    """Whether a second Swin transformer reads the pictures together with all maps of the first one (Liang et al.,
    *CBNet*, IEEE TIP 2022)."""


class HeightResNetCameraConfig(HeightLiftConfig, ResNetConfig):
    """A camera branch with folded heights and a ResNet."""

    first_output: ClassVar[int] = 0


class CoarseResNetCameraConfig(CoarseLiftConfig, ResNetConfig):
    """A camera branch with coarse features and a ResNet, as beside radars.

    >>> CoarseResNetCameraConfig(blocks=(3, 4, 6, 3)).stage_channels  # ResNet-50
    (256, 512, 1024, 2048)
    """

    first_output: ClassVar[int] = 0


def _kind_of_camera(camera: Any) -> str:
    """The tag of a camera's section: its backbone, and whether its view transform folds heights."""
    fields = fields_of(camera)
    backbone = "resnet" if "blocks" in fields else "swin"
    if "feature_stride" in fields:
        return "coarse-resnet"
    return f"height-{backbone}" if "shown_size" in fields else backbone


AnyCamera = Annotated[
    Annotated[SwinCameraConfig, Tag("swin")]
    | Annotated[ResNetCameraConfig, Tag("resnet")]
    | Annotated[HeightSwinCameraConfig, Tag("height-swin")]
    | Annotated[HeightResNetCameraConfig, Tag("height-resnet")]
    | Annotated[CoarseResNetCameraConfig, Tag("coarse-resnet")],
    Discriminator(_kind_of_camera),
]
"""The section of any camera branch."""
