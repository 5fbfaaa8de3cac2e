"""The small twin of ``bevfusion-pku-r101-pointpillars``, on the inputs of ``bevfusion-mit-toy``."""

from altermoma_ray.models.configurations import (
    bevfusion_mit_pointpillars_toy,
    bevfusion_mit_r101_second_toy,
    bevfusion_mit_toy,
    bevfusion_pku_toy,
)
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.camera import HeightResNetCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.height_lift import HeightLiftConfig

_PKU, CELL = bevfusion_pku_toy.CONFIGURATION, bevfusion_mit_toy.CELL
_PILLARS = bevfusion_mit_pointpillars_toy.CONFIGURATION
_RESNET = bevfusion_mit_r101_second_toy.CONFIGURATION.camera
_EDGE = 25.6

CONFIGURATION = ModelConfig(
    name="bevfusion-pku-r101-pointpillars-toy",
    inputs=_PKU.inputs,
    camera=HeightResNetCameraConfig(
        blocks=_RESNET.blocks,
        width=_RESNET.width,
        **{field: getattr(_PKU.camera, field) for field in HeightLiftConfig.model_fields},
    ),
    # The decoder behind the fuser there is the branch's own here.
    lidar=_PILLARS.lidar.model_copy(
        update={"point_values": 4, "centre_offsets": 3, "units": (32, 32), "decoder": _PILLARS.decoder}
    ),
    fuser=_PKU.fuser,
    decoder=None,
    head=AnchorHeadConfig(
        # Sizes of the synthetic town's classes: car, truck, bus, bicycle, barrier, pedestrian. The last one is as large
        # as a cell, and a little of an anchor in common with an object is enough to be the object's: between the
        # centres of cells, a pedestrian would else meet no anchor.
        anchor_sizes=(
            (4.45, 1.85, 1.6),
            (6.1, 2.35, 2.65),
            (8.4, 2.65, 3.15),
            (1.9, 0.7, 1.2),
            (0.5, 2.2, 1.0),
            (1.05, 1.05, 1.35),
        ),
        anchor_bottoms=(-1.84,) * 6,
        anchor_range=(-_EDGE, -_EDGE, _EDGE, _EDGE),
        bev_size=(48, 48),
        cell_size=(CELL, CELL),
        origin=(-_EDGE, -_EDGE),
        least_overlap=0.01,
    ),
)
