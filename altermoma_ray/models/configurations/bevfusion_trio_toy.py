"""A toy of three sensors: camera, LiDAR and radars, each with a branch and a group of weights of its own.

There is no public configuration of these parts together; the model shows that masking, groups, ratios and reports hold
for more than two sensors. The branches are those of ``bevfusion-mit-toy`` and ``bevfusion-r-toy``; the camera lifts
without LiDAR depth, so that each branch reads one sensor.
"""

from altermoma_ray.models.configurations import bevfusion_mit_toy, bevfusion_r_toy
from altermoma_ray.models.configurations.config import ModelConfig

_TOY, _RADAR = bevfusion_mit_toy.CONFIGURATION, bevfusion_r_toy.CONFIGURATION
assert _TOY.camera is not None

CONFIGURATION = ModelConfig(
    name="bevfusion-trio-toy",
    inputs=_RADAR.inputs,
    camera=_TOY.camera.model_copy(update={"depth_net": None}),
    lidar=_TOY.lidar,
    radar=_RADAR.radar,
    fuser=_TOY.fuser,
    decoder=_TOY.decoder,
    head=_TOY.head,
)
