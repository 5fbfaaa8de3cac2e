"""The published BEVFusion map segmentation model (Liu et al., ICRA 2023)."""

from altermoma_ray.data.raster import RasterConfig
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.models.configurations.camera import SwinCameraConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig

SIDE = (-51.2, 51.2, 0.4)

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-seg",
    inputs=InputConfig(point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), flip=False, raster=RasterConfig()),
    camera=SwinCameraConfig(stochastic_depth=0.3, depth_net=None, grid_x=SIDE, grid_y=SIDE),
    lidar=LidarConfig(voxel_size=(0.1, 0.1, 0.2), max_voxels_train=90_000, max_voxels_test=120_000),
    fuser=FuserConfig(),
    decoder=DecoderConfig(),
    head=SegmentationHeadConfig(),
)
