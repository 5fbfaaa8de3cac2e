"""The published BEVFusion detector with a CenterPoint head in the place of the TransFusion head.

Neither release has this pair. The branches, the fuser and the decoder are the published detector's (Liu et al., ICRA
2023); the head has the published figures of a CenterPoint head for LiDAR models (Yin et al., CVPR 2021).
"""

from altermoma_ray.models.configurations import bevfusion_mit
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.configurations.config import ModelConfig

_PUBLISHED = bevfusion_mit.CONFIGURATION

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-centerpoint",
    inputs=_PUBLISHED.inputs,
    camera=_PUBLISHED.camera,
    lidar=_PUBLISHED.lidar,
    fuser=_PUBLISHED.fuser,
    decoder=_PUBLISHED.decoder,
    head=CenterPointHeadConfig(),
)
