"""A ``bevfusion-pku`` small enough for two CPU cores: the same parts, on the inputs of ``bevfusion-mit-toy``."""

from altermoma_ray.models.configurations import bevfusion_mit_toy
from altermoma_ray.models.configurations.camera import HeightSwinCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, GatedFuserConfig

_TOY, CELL = bevfusion_mit_toy.CONFIGURATION, bevfusion_mit_toy.CELL

CONFIGURATION = ModelConfig(
    name="bevfusion-pku-toy",
    inputs=_TOY.inputs,
    camera=HeightSwinCameraConfig(
        embed=32,
        depths=(2, 2, 2),
        heads=(1, 2, 4),
        window=4,
        stochastic_depth=0.0,
        neck=36,
        levels=4,
        # The toy's pictures are cropped, so its frustum lies on the crop.
        original_size=_TOY.inputs.image_size,
        shown_size=_TOY.inputs.image_size,
        depth_bins=(1.0, 37.0, 1.5),
        channels=16,
        grid_x=(-25.6, 25.6, CELL),
        grid_y=(-25.6, 25.6, CELL),
        grid_z=(-5.0, 3.0, 2.0),
        bev=(48, 48, 32),
    ),
    lidar=_TOY.lidar.model_copy(
        update={"decoder": DecoderConfig(channels=(32, 64), layers=(1, 1), neck=(32, 32), norm_momentum=0.1)}
    ),
    fuser=GatedFuserConfig(channels=64, norm_momentum=0.1),
    decoder=None,
    head=_TOY.head,
)
