"""The map segmentation twin of ``bevfusion-mit-toy``: its branches, without LiDAR depth, and a small map head."""

from altermoma_ray.data.raster import RasterConfig
from altermoma_ray.models.configurations import bevfusion_mit_toy
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig

_TOY, CELL = bevfusion_mit_toy.CONFIGURATION, bevfusion_mit_toy.CELL

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-seg-toy",
    inputs=_TOY.inputs.model_copy(update={"raster": RasterConfig(extent=25.0, cells=100)}),
    camera=_TOY.camera.model_copy(update={"depth_net": None}),
    lidar=_TOY.lidar,
    fuser=_TOY.fuser,
    decoder=_TOY.decoder,
    head=SegmentationHeadConfig(
        hidden=48, extent=25.0, cells=100, bev_size=(48, 48), cell_size=(CELL, CELL), origin=(-25.6, -25.6)
    ),
)
