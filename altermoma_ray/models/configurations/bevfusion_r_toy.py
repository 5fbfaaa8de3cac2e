"""The small twin of ``bevfusion-r``: a narrow ResNet camera and five radars.

The camera lifts without LiDAR depth, and no other part reads the LiDAR. Deviations from ``bevfusion-r``, for pictures
of 48 × 128 pixels: features of stride 8 instead of 16, and the neck and the convolutions behind the splat of
``bevfusion-mit``; the head is TransFusion's, as in the other toys.
"""

from altermoma_ray.data.radar import RadarInputConfig
from altermoma_ray.models.configurations import bevfusion_mit_r101_second_toy, bevfusion_mit_toy
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.radar import RadarConfig
from altermoma_ray.models.configurations.residual import ResidualDecoderConfig

_TOY, _CAMERA = bevfusion_mit_toy.CONFIGURATION, bevfusion_mit_r101_second_toy.CONFIGURATION.camera
assert _CAMERA is not None
CELL = bevfusion_mit_toy.CELL

CONFIGURATION = ModelConfig(
    name="bevfusion-r-toy",
    inputs=_TOY.inputs.model_copy(update={"radar": RadarInputConfig()}),
    camera=_CAMERA.model_copy(update={"depth_net": None}),
    radar=RadarConfig(pillar_size=(CELL, CELL), channels=(64, 64, 64, 32), norm_momentum=0.1),
    fuser=_TOY.fuser,
    decoder=ResidualDecoderConfig(channels=(32, 48, 64), blocks=(1, 1, 1), neck=64),
    head=_TOY.head,
)
