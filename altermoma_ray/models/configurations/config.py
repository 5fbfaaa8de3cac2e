"""What a BEVFusion model is made of, as typed objects; the named models are files beside this one.

Published figures: Liu et al., *BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
Representation*, ICRA 2023; Bai et al., *TransFusion*, CVPR 2022. Bird's-eye-view (BEV) maps are [N, channel, x, y].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from altermoma_ray.data.raster import RasterConfig
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.camera import AnyCamera
from altermoma_ray.models.configurations.section import Section
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig

if TYPE_CHECKING:
    from altermoma_ray.models.bevfusion import FusionModel

Height = Literal["bottom", "centre", "top"]
"""The point of a box whose z a head regresses."""


class LidarConfig(Section):
    """Hard voxels and sparse 3D encoder."""

    voxel_size: tuple[float, float, float] = (0.075, 0.075, 0.2)
    """x, y, z (m)."""
    max_points: int = Field(10, ge=1)
    """Points of a voxel that count, first come."""
    max_voxels_train: int = Field(120_000, ge=1)
    """Voxels of a sample in training, first come."""
    max_voxels_test: int = Field(160_000, ge=1)
    """Voxels of a sample otherwise."""
    point_scale: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors on a voxel's mean x, y, z, intensity and time lag before the first layer."""
    input_channels: int = 16
    """Channels of the first convolution."""
    stages: tuple[tuple[int, ...], ...] = ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128))
    """Channels after each layer: residual blocks, then in all stages but the last a convolution of stride 2."""
    channels: int = 128
    """Channels of the output convolution, before the height is folded into them."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""

    @model_validator(mode="after")
    def _check(self) -> LidarConfig:
        before = self.input_channels
        for stage, channels in enumerate(self.stages):
            blocks = channels if stage == len(self.stages) - 1 else channels[:-1]
            if any(width != before for width in blocks):
                raise ValueError(
                    f"the residual blocks of stage {stage} must keep its {before} channels, but got {channels}"
                )
            before = channels[-1]
        return self

    @property
    def stride(self) -> int:
        """Voxels a BEV cell, along x and y."""
        return 2 ** (len(self.stages) - 1)

    def output_height(self, height: int) -> int:
        """Heights that the encoder leaves of so many voxels along z; 0 or less when there are too few."""
        height += 1  # the published encoder has one empty layer on top
        for strided in range(len(self.stages) - 1):
            height = (height + 2 * self.height_padding(strided) - 3) // 2 + 1
        return (height - 3) // 2 + 1

    def height_padding(self, stage: int) -> int:
        """Padding along z of a stage's strided convolution; the last one has none."""
        return 0 if stage == len(self.stages) - 2 else 1


class FuserConfig(Section):
    """Convolutional fuser."""

    channels: int = 256
    """Channels of the fused map."""


class DecoderConfig(Section):
    """SECOND backbone and its FPN on the fused map."""

    channels: tuple[int, ...] = (128, 256)
    """Channels of each block."""
    layers: tuple[int, ...] = (5, 5)
    """Convolutions of each block after its first."""
    strides: tuple[int, ...] = (1, 2)
    """Stride of each block's first convolution."""
    neck: tuple[int, ...] = (256, 256)
    """Channels that each block's output contributes to the map for the head."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""

    @model_validator(mode="after")
    def _check(self) -> DecoderConfig:
        if len({len(self.channels), len(self.layers), len(self.strides), len(self.neck)}) != 1:
            raise ValueError("`channels`, `layers`, `strides` and `neck` need one entry for each block")
        if self.strides[0] != 1:
            raise ValueError(
                f"the first block keeps the map's size: `strides` must start with 1, but got {self.strides}"
            )
        return self


class HeadConfig(Section):
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
    """What the weights learned ``height`` to be the z of; a release brings its own (:mod:`.released_names`)."""

    @model_validator(mode="after")
    def _check(self) -> HeadConfig:
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


def _kind_of_head(head: Any) -> str:
    """The tag of a head's section: only the map segmentation head names its ``classes``."""
    is_segmentation = isinstance(head, SegmentationHeadConfig) or (isinstance(head, dict) and "classes" in head)
    return "segmentation" if is_segmentation else "transfusion"


_TAGS = frozenset({"swin", "resnet", "transfusion", "segmentation"})

AnyHead = Annotated[
    Annotated[HeadConfig, Tag("transfusion")] | Annotated[SegmentationHeadConfig, Tag("segmentation")],
    Discriminator(_kind_of_head),
]
"""The section of any head; ``bev_size``, ``cell_size`` and ``origin`` are common to all."""


class ModelConfig(Section):
    """A whole fusion model. Its grids must agree; that is checked here and nowhere else.

    >>> from altermoma_ray.models.configurations.named import configuration
    >>> configuration("bevfusion-mit").head.bev_size
    (180, 180)
    """

    name: str
    """Name of the configuration; part of registered names and of cache keys."""
    inputs: InputConfig
    camera: AnyCamera
    lidar: LidarConfig
    fuser: FuserConfig
    decoder: DecoderConfig
    head: AnyHead

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        low, high = self.inputs.point_range[:2], self.inputs.point_range[3:5]
        cell = tuple(size * self.lidar.stride for size in self.lidar.voxel_size[:2])
        size = tuple(round((upper - lower) / step) for lower, upper, step in zip(low, high, cell, strict=True))
        for what, got, need in (
            ("camera grid's `bev_size`", self.camera.bev_size, size),
            ("`head.bev_size`", self.head.bev_size, size),
            ("`head.cell_size`", self.head.cell_size, cell),
            ("`head.origin`", self.head.origin, low),
            ("lower edges of the camera grid", (self.camera.grid_x[0], self.camera.grid_y[0]), low),
            ("upper edges of the camera grid", (self.camera.grid_x[1], self.camera.grid_y[1]), high),
        ):
            if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(got, need, strict=True)):
                raise ValueError(f"{what} must be {need} to fit the voxels and the point range, but got {got}")
        if self.lidar.output_height(self.voxel_grid[2]) < 1:
            raise ValueError(f"{self.voxel_grid[2]} voxels along z are too few for the stages of the LiDAR encoder")
        if any(side % 8 for side in self.inputs.image_size):
            raise ValueError(f"`inputs.image_size` must divide by 8, but got {self.inputs.image_size}")
        if isinstance(self.head, SegmentationHeadConfig):
            raster = RasterConfig(**{field: getattr(self.head, field) for field in RasterConfig.model_fields})
            if self.inputs.raster != raster:
                raise ValueError(f"`inputs.raster` must be the head's raster, {raster}, but got {self.inputs.raster}")
        total = math.prod(self.decoder.strides)
        if any(side % total for side in size):
            raise ValueError(f"the BEV map {size} must divide by the decoder's total stride {total}")
        return self

    def build(self) -> FusionModel:
        """A new model with random weights."""
        from altermoma_ray.models.bevfusion import FusionModel  # whose parts import their sections from here

        return FusionModel(self)

    @property
    def voxel_grid(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        low, high = self.inputs.point_range[:3], self.inputs.point_range[3:]
        sides = zip(low, high, self.lidar.voxel_size, strict=True)
        return tuple(round((upper - lower) / step) for lower, upper, step in sides)  # type: ignore[return-value]


def parse_configuration(text: str, origin: str) -> ModelConfig:
    """The configuration that :meth:`ModelConfig.model_dump_json` wrote.

    Args:
        text: its JSON.
        origin: where that comes from, for the message.

    Raises:
        UserError: it is no JSON, or a field is missing, unknown or does not fit.
    """
    try:
        return ModelConfig.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        # Pydantic puts the tag of a section's kind after its name; users know no such level.
        path = [part for part in map(str, first["loc"]) if part not in _TAGS]
        where = ".".join(path) or "model"
        raise UserError(
            f"{origin} holds no valid model configuration: {where}: {first['msg']}; it was written by another version "
            "of altermoma_ray or edited: use that version, or another checkpoint"
        ) from error
