"""The small twin of ``bevfusion-mit-r101-second``: ``bevfusion-mit-toy`` with a narrow ResNet for its Swin."""

from altermoma_ray.models.configurations import bevfusion_mit_toy
from altermoma_ray.models.configurations.camera import LiftConfig, ResNetCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig

_TOY = bevfusion_mit_toy.CONFIGURATION

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-r101-second-toy",
    inputs=_TOY.inputs,
    camera=ResNetCameraConfig(
        # The third stage is the longest, as in ResNet-101.
        blocks=(1, 2, 4, 1),
        width=12,
        **{field: getattr(_TOY.camera, field) for field in LiftConfig.model_fields},
    ),
    lidar=_TOY.lidar,
    fuser=_TOY.fuser,
    decoder=_TOY.decoder,
    head=_TOY.head,
)
