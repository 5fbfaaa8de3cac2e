"""The published BEVFusion detector (Liu et al., ICRA 2023)."""

from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import SwinCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig

CONFIGURATION = ModelConfig(
    name="bevfusion-mit",
    inputs=InputConfig(),
    camera=SwinCameraConfig(),
    lidar=LidarConfig(),
    fuser=FuserConfig(),
    decoder=DecoderConfig(),
    head=TransFusionHeadConfig(),
)
