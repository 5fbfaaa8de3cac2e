"""The small twin of ``bevfusion-mit-pointpillars``: ``bevfusion-mit-toy`` with pillars, two of which make a cell."""

from altermoma_ray.models.configurations import bevfusion_mit_toy
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig
from altermoma_ray.models.configurations.pillars import PillarConfig

_TOY, CELL = bevfusion_mit_toy.CONFIGURATION, bevfusion_mit_toy.CELL

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-pointpillars-toy",
    inputs=_TOY.inputs,
    camera=_TOY.camera,
    lidar=PillarConfig(
        voxel_size=(CELL / 2, CELL / 2, 8.0),
        max_voxels_train=10_000,
        max_voxels_test=10_000,
        point_scale=_TOY.lidar.point_scale,
        units=(32, 64),
        norm_momentum=_TOY.lidar.norm_momentum,
    ),
    fuser=FuserConfig(channels=32),
    decoder=DecoderConfig(
        channels=(48, 64), layers=(2, 2), strides=(2, 2), neck=(32, 32), norm_momentum=0.1, output_stride=2
    ),
    head=_TOY.head,
)
