"""The published camera-radar BEVFusion (Liu et al., ICRA 2023): a ResNet-50, five radars, a CenterPoint head.

The published training neither turns the scene nor takes its augmentation of velocities from the right columns; see
:mod:`altermoma_ray.data.radar`.
"""

from altermoma_ray.data.radar import RadarInputConfig
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import CoarseResNetCameraConfig
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import FuserConfig
from altermoma_ray.models.configurations.radar import RadarConfig
from altermoma_ray.models.configurations.residual import ResidualDecoderConfig

CONFIGURATION = ModelConfig(
    name="bevfusion-r",
    inputs=InputConfig(
        # The LiDAR's points are read for nothing but the depth loss, which the published recipe does without.
        sweeps=1,
        point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
        rotation=0.0,
        radar=RadarInputConfig(),
    ),
    camera=CoarseResNetCameraConfig(blocks=(3, 4, 6, 3)),
    radar=RadarConfig(),
    fuser=FuserConfig(channels=64),
    decoder=ResidualDecoderConfig(),
    head=CenterPointHeadConfig(
        bev_size=(128, 128),
        cell_size=(0.8, 0.8),
        origin=(-51.2, -51.2),
        box_weights=(1.0,) * 10,
        candidates=1000,
    ),
)
