"""BEVFusion with pillars in the place of the sparse 3D encoder.

The published code has pillars in a LiDAR model alone (Liu et al., ICRA 2023; Lang et al., *PointPillars*, CVPR 2019):
pillars of 0.2 m, then SECOND, its FPN and a TransFusion head on cells of 0.8 m. This model adds the published camera
branch, in the place where the published detector fuses: before SECOND, on the pillars' own map. All layers but the
fuser thus have the shapes of the published LiDAR model. The camera's map, of cells of 0.8 m, is enlarged four times.
"""

from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import SwinCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig
from altermoma_ray.models.configurations.pillars import PillarConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig

EDGE = 51.2
"""Of the map from the sensor, along x and y (m)."""

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-pointpillars",
    inputs=InputConfig(point_range=(-EDGE, -EDGE, -5.0, EDGE, EDGE, 3.0)),
    camera=SwinCameraConfig(grid_x=(-EDGE, EDGE, 0.4), grid_y=(-EDGE, EDGE, 0.4)),
    lidar=PillarConfig(),
    fuser=FuserConfig(channels=64),
    decoder=DecoderConfig(
        channels=(64, 128, 256), layers=(3, 5, 5), strides=(2, 2, 2), neck=(128, 128, 128), output_stride=4
    ),
    head=TransFusionHeadConfig(bev_size=(128, 128), cell_size=(0.8, 0.8), origin=(-EDGE, -EDGE)),
)
