"""The published BEVFusion detector (Liu et al., ICRA 2023)."""

from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import SwinCameraConfig
from altermoma_ray.models.configurations.config import (
    DecoderConfig,
    FuserConfig,
    HeadConfig,
    LidarConfig,
    ModelConfig,
)

CONFIGURATION = ModelConfig(
    name="bevfusion-mit",
    inputs=InputConfig(),
    camera=SwinCameraConfig(),
    lidar=LidarConfig(),
    fuser=FuserConfig(),
    decoder=DecoderConfig(),
    head=HeadConfig(),
)
