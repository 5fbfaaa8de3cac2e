"""Our reading of AlterMOMA's "ResNet101 + SECOND" model, for which no public configuration exists.

A ResNet-101 stands in the place of the Swin transformer, as the ResNet-50 does in a public variant of BEVFusion: the
maps of strides 8, 16 and 32 enter the neck. All other parts are the published detector's (Sun et al., NeurIPS 2024; Liu
et al., ICRA 2023).
"""

from altermoma_ray.models.configurations import bevfusion_mit
from altermoma_ray.models.configurations.camera import ResNetCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig

_PUBLISHED = bevfusion_mit.CONFIGURATION

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-r101-second",
    inputs=_PUBLISHED.inputs,
    camera=ResNetCameraConfig(),
    lidar=_PUBLISHED.lidar,
    fuser=_PUBLISHED.fuser,
    decoder=_PUBLISHED.decoder,
    head=_PUBLISHED.head,
)
