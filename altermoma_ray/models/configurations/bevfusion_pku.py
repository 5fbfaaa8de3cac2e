"""The published BEVFusion detector of Peking University with a TransFusion-L LiDAR branch (Liang et al., NeurIPS 2022).

The published model has two Swin transformers in composite. AlterMOMA's table names one, which is the default here;
``dual`` has both. The authors freeze both branches while they train fusion; pruning needs gradients everywhere, so
nothing is frozen here. Deviation: the four columns of padding are black before normalisation, not after.
"""

from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import HeightSwinCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, GatedFuserConfig
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig

_SCALE = 448 / 900
"""Pictures keep their shape: 448 × 796 of 448 × 800 pixels are seen, the rest is padding."""

CONFIGURATION = ModelConfig(
    name="bevfusion-pku",
    inputs=InputConfig(
        image_size=(448, 800),
        resize_test=_SCALE,
        # The published loader takes ten sweeps beside the keyframe, and keeps the ego vehicle's own points.
        sweeps=11,
        close_range=0.0,
        # The published training augments neither pictures nor scenes.
        resize_train=(_SCALE, _SCALE),
        image_rotation=0.0,
        image_flip=False,
        rotation=0.0,
        scale=(1.0, 1.0),
        translation=0.0,
        flip=False,
    ),
    camera=HeightSwinCameraConfig(),
    lidar=LidarConfig(decoder=DecoderConfig()),
    fuser=GatedFuserConfig(),
    decoder=None,
    head=TransFusionHeadConfig(),
)
