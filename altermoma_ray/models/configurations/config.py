"""What a BEVFusion model is made of, as typed objects; the named models are files beside this one.

Published figures: Liu et al., *BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
Representation*, ICRA 2023; Bai et al., *TransFusion*, CVPR 2022. Bird's-eye-view (BEV) maps are [N, channel, x, y].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Tag, ValidationError, model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from altermoma_ray.data.raster import RasterConfig
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.camera import AnyCamera
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.configurations.fusion import AnyDecoder, AnyFuser, GatedFuserConfig
from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.configurations.lidar import AnyLidar, LidarConfig
from altermoma_ray.models.configurations.pillars import PillarConfig
from altermoma_ray.models.configurations.radar import RadarConfig
from altermoma_ray.models.configurations.section import Section, fields_of
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig
from altermoma_ray.models.configurations.tracker import TrackerConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig

if TYPE_CHECKING:
    from altermoma_ray.models.bevfusion import FusionModel

SENSORS = ("camera", "lidar", "radar")
"""Names of the sensors' sections, in the order in which the fuser sees the sensors' maps."""


_OWN_FIELDS = {"classes": "segmentation", "class_groups": "centerpoint", "anchor_sizes": "anchors"}
"""A field that only one kind of head has, and the kind's tag; a TransFusion head has none."""


def _kind_of_head(head: Any) -> str:
    """The tag of a head's section, told by its fields."""
    fields = fields_of(head)
    return next((kind for field, kind in _OWN_FIELDS.items() if field in fields), "transfusion")


_TAGS = frozenset(
    {"swin", "resnet", "height-swin", "height-resnet", "coarse-resnet", "convolutional", "gated", "second", "residual"}
) | frozenset({"voxels", "pillars", "transfusion", *_OWN_FIELDS.values()})

AnyHead = Annotated[
    Annotated[TransFusionHeadConfig, Tag("transfusion")]
    | Annotated[SegmentationHeadConfig, Tag("segmentation")]
    | Annotated[CenterPointHeadConfig, Tag("centerpoint")]
    | Annotated[AnchorHeadConfig, Tag("anchors")],
    Discriminator(_kind_of_head),
]
"""The section of any head; ``bev_size``, ``cell_size`` and ``origin`` are common to all."""


class ModelConfig(Section):
    """A whole fusion model. Its grids must agree; that is checked here and nowhere else.

    A model has a section for each of its sensors, two or more. Absent sections are not written.

    >>> from altermoma_ray.models.configurations.named import configuration
    >>> configuration("bevfusion-mit").head.bev_size, configuration("bevfusion-mit").modalities
    ((180, 180), ('lidar', 'camera'))
    """

    name: str
    """Name of the configuration; part of registered names and of cache keys."""
    inputs: InputConfig
    camera: AnyCamera | None = None
    lidar: AnyLidar | None = None
    radar: RadarConfig | None = None
    fuser: AnyFuser
    decoder: AnyDecoder | None = None
    """None hands the fused map to the head as it is."""
    head: AnyHead
    tracker: TrackerConfig | None = None
    """Follows the detections of a scene; None leaves them as they are. A tracker has no weights."""

    @property
    def sensors(self) -> tuple[str, ...]:
        """The model's sensors, in the order in which the fuser sees their maps."""
        return tuple(sensor for sensor in SENSORS if getattr(self, sensor) is not None)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's sensors, in the order in which Algorithm 1 of AlterMOMA masks them: the camera last."""
        return self.sensors[::-1]

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave absent sections out: checkpoints of two sensors have no others, and hashes are made of this text."""
        return {name: value for name, value in dump(self).items() if value is not None}

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if len(self.sensors) < 2:
            raise ValueError(f"fusion needs two of the sections {', '.join(SENSORS)}, but got {self.sensors}")
        if (self.radar is None) != (self.inputs.radar is None):
            raise ValueError("`radar` and `inputs.radar` must both be given or both be absent")
        if self.lidar is None and getattr(self.camera, "depth_net", None) is not None:
            raise ValueError("`camera.depth_net` reads LiDAR points: it must be None in a model without LiDAR")
        self._check_grids()
        if isinstance(self.lidar, LidarConfig) and self.lidar.output_height(self.voxel_grid[2]) < 1:
            raise ValueError(f"{self.voxel_grid[2]} voxels along z are too few for the stages of the LiDAR encoder")
        if isinstance(self.lidar, PillarConfig) and self.voxel_grid[2] != 1:
            raise ValueError(
                f"a pillar must be as high as `inputs.point_range`, {self.inputs.point_range}, but `lidar.voxel_size` "
                f"is {self.lidar.voxel_size}"
            )
        if any(side % 8 for side in self.inputs.image_size):
            raise ValueError(f"`inputs.image_size` must divide by 8, but got {self.inputs.image_size}")
        if isinstance(self.camera, HeightLiftConfig):
            self._check_frustum(self.camera)
        if isinstance(self.head, SegmentationHeadConfig):
            raster = RasterConfig(**{field: getattr(self.head, field) for field in RasterConfig.model_fields})
            if self.inputs.raster != raster:
                raise ValueError(f"`inputs.raster` must be the head's raster, {raster}, but got {self.inputs.raster}")
            if self.tracker is not None:
                raise ValueError("`tracker` follows detections, and a map segmentation head gives none; leave it out")
        for where, decoder in (("decoder", self.decoder), ("LiDAR decoder", getattr(self.lidar, "decoder", None))):
            total = math.prod(decoder.strides) if decoder is not None else 1
            if any(side % total for side in self.fused_size):
                raise ValueError(f"the BEV map {self.fused_size} must divide by the {where}'s total stride {total}")
        return self

    def _check_grids(self) -> None:
        low, high, fused = self.inputs.point_range[:2], self.inputs.point_range[3:5], self.fused_size
        # A residual decoder keeps the map's size.
        stride = getattr(self.decoder, "output_stride", 1)
        grids: list[tuple[str, Any, Any]] = [
            ("`head.bev_size`", self.head.bev_size, tuple(side // stride for side in fused)),
            ("`head.cell_size`", self.head.cell_size, tuple(side * stride for side in self._cell)),
            ("`head.origin`", self.head.origin, low),
        ]
        if self.camera is not None:
            x, y, size = self.camera.grid_x, self.camera.grid_y, self.camera.bev_size
            grids += [
                ("lower edges of the camera grid", (x[0], y[0]), low),
                ("upper edges of the camera grid", (x[1], y[1]), high),
            ]
            # The fuser enlarges a coarser map by a whole factor; a gated fuser resizes any map.
            fits = all(part and whole % part == 0 for whole, part in zip(fused, size, strict=True))
            if not fits and not isinstance(self.fuser, GatedFuserConfig):
                grids.append(("camera grid's `bev_size`", size, fused))
        if self.radar is not None:
            grids.append(("`radar.pillar_size`", self.radar.pillar_size, self._cell))
        for what, got, need in grids:
            if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(got, need, strict=True)):
                raise ValueError(f"{what} must be {need} to fit the voxels and the point range, but got {got}")

    def _check_frustum(self, camera: HeightLiftConfig) -> None:
        size, cells = self.inputs.image_size, camera.feature_size
        # The camera's finest maps have stride 4, and the neck pools them by whole cells.
        if any(side % (4 * number) for side, number in zip(size, cells, strict=True)):
            raise ValueError(
                f"`inputs.image_size` must have a multiple of 4 pixels for each of the camera's {cells} feature cells, "
                f"but got {size}"
            )
        if any(shown > side for shown, side in zip(camera.shown_size, size, strict=True)):
            raise ValueError(f"`camera.shown_size` must fit into the picture {size}, but got {camera.shown_size}")

    def build(self) -> FusionModel:
        """A new model with random weights."""
        from altermoma_ray.models.bevfusion import FusionModel  # whose parts import their sections from here

        return FusionModel(self)

    def is_but_for_task(self, other: ModelConfig) -> bool:
        """Whether another configuration has the same weights: all but the name and the tracker is equal.

        >>> from altermoma_ray.models.configurations.named import configuration
        >>> configuration("bevfusion-mit").is_but_for_task(configuration("bevfusion-mit-track"))
        True
        """
        return other.model_copy(update={"name": self.name, "tracker": self.tracker}) == self

    def map_size(self, sensor: str) -> tuple[int, int]:
        """Cells (x, y) of a sensor's BEV map.

        Args:
            sensor: name of a section.
        """
        if sensor == "camera" and self.camera is not None:
            return self.camera.bev_size
        return self.fused_size

    @property
    def fused_size(self) -> tuple[int, int]:
        """Cells (x, y) of the fused map; a coarser map of a camera is enlarged by the fuser."""
        low, high = self.inputs.point_range[:2], self.inputs.point_range[3:5]
        return tuple(round((upper - lower) / step) for lower, upper, step in zip(low, high, self._cell, strict=True))  # type: ignore[return-value]

    @property
    def _cell(self) -> tuple[float, float]:
        """Cell of the fused map (x, y), metres."""
        # A camera's grid is free: the sensor that measures places sets the cells.
        return next(section.cell_size for section in (self.lidar, self.radar) if section is not None)

    @property
    def voxel_grid(self) -> tuple[int, int, int]:
        """The LiDAR's voxels along x, y and z."""
        assert self.lidar is not None
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
