"""The small twin of ``bevfusion-mit-centerpoint``: ``bevfusion-mit-toy`` with a narrow CenterPoint head."""

from altermoma_ray.models.configurations import bevfusion_mit_toy
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.configurations.config import ModelConfig

_TOY, CELL = bevfusion_mit_toy.CONFIGURATION, bevfusion_mit_toy.CELL

CONFIGURATION = ModelConfig(
    name="bevfusion-mit-centerpoint-toy",
    inputs=_TOY.inputs,
    camera=_TOY.camera,
    lidar=_TOY.lidar,
    fuser=_TOY.fuser,
    decoder=_TOY.decoder,
    head=CenterPointHeadConfig(
        hidden=24,
        branch_hidden=12,
        bev_size=(48, 48),
        cell_size=(CELL, CELL),
        origin=(-25.6, -25.6),
        gaussian_min_radius=1,
        candidates=100,
        # A small model is rarely sure. The published 0.1 would cut off the low end of its precision-recall curves.
        least_score=0.02,
    ),
)
