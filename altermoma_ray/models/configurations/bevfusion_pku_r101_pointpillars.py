"""Our reading of AlterMOMA's "ResNet101 + PointPillars" model, for which no public configuration exists.

The published BEVFusion of Peking University with its PointPillars stream (Liang et al., NeurIPS 2022; Lang et al.,
CVPR 2019) has two Swin transformers in composite. A ResNet-101 stands in their place here, and all four of its stages
enter the neck. All other parts are the published model's; as in ``bevfusion-pku``, nothing is frozen.
"""

from altermoma_ray.models.configurations import bevfusion_pku
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.camera import HeightResNetCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, GatedFuserConfig
from altermoma_ray.models.configurations.pillars import PillarConfig

EDGE, CELL = 50.0, 0.5
"""Of the map from the sensor, along x and y, and side of a cell (m)."""
_GRID = (-EDGE, EDGE, CELL)

CONFIGURATION = ModelConfig(
    name="bevfusion-pku-r101-pointpillars",
    inputs=bevfusion_pku.CONFIGURATION.inputs.model_copy(update={"point_range": (-EDGE, -EDGE, -5.0, EDGE, EDGE, 3.0)}),
    camera=HeightResNetCameraConfig(grid_x=_GRID, grid_y=_GRID, grid_z=(-5.0, 3.0, CELL)),
    lidar=PillarConfig(
        voxel_size=(CELL / 2, CELL / 2, 8.0),
        max_points=64,
        max_voxels_train=30_000,
        max_voxels_test=40_000,
        point_values=4,
        centre_offsets=3,
        units=(64, 64),
        decoder=DecoderConfig(
            channels=(64, 128, 256), layers=(3, 5, 5), strides=(2, 2, 2), neck=(128, 128, 128), output_stride=2
        ),
    ),
    fuser=GatedFuserConfig(channels=384),
    decoder=None,
    head=AnchorHeadConfig(),
)
