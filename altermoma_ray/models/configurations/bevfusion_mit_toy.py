"""A BEVFusion small enough for two CPU cores: the same parts, fewer channels and cells."""

import math

from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import SwinCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig

CELL = 51.2 / 48
"""Side of a BEV cell (m)."""

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-toy",
    inputs=InputConfig(
        image_size=(48, 128),
        resize_test=0.32,
        resize_train=(0.31, 0.36),
        image_rotation=2.0,
        sweeps=3,
        rotation=math.pi / 8,
        scale=(0.95, 1.05),
        translation=0.2,
        point_range=(-25.6, -25.6, -5.0, 25.6, 25.6, 3.0),
    ),
    camera=SwinCameraConfig(
        embed=32,
        depths=(2, 2, 2),
        heads=(1, 2, 4),
        window=4,
        stochastic_depth=0.0,
        neck=64,
        depth_bins=(1.0, 37.0, 1.5),
        depth_net=(8, 16, 32),
        channels=32,
        grid_x=(-25.6, 25.6, CELL / 2),
        grid_y=(-25.6, 25.6, CELL / 2),
        downsample=2,
    ),
    lidar=LidarConfig(
        voxel_size=(CELL / 4, CELL / 4, 8 / 14),
        max_voxels_train=20_000,
        max_voxels_test=20_000,
        point_scale=(1 / 25.6, 1 / 25.6, 1 / 4, 1 / 255, 1.0),
        input_channels=8,
        stages=((16,), (16, 32), (32, 32)),
        channels=64,
        norm_momentum=0.1,  # a fine-tuning of some dozen steps has to reach the running statistics
    ),
    fuser=FuserConfig(channels=48),
    decoder=DecoderConfig(channels=(32, 64), layers=(1, 1), neck=(32, 32), norm_momentum=0.1),
    head=TransFusionHeadConfig(
        hidden=48,
        branch_hidden=32,
        proposals=60,
        heads=4,
        feed_forward=96,
        dropout=0.0,
        bev_size=(48, 48),
        cell_size=(CELL, CELL),
        origin=(-25.6, -25.6),
        gaussian_min_radius=1,
    ),
)
