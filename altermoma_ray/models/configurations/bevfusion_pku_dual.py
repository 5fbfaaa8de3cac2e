"""``bevfusion-pku`` with two Swin transformers in composite, as in all published checkpoints of its authors."""

from altermoma_ray.models.configurations import bevfusion_pku
from altermoma_ray.models.configurations.camera import HeightSwinCameraConfig

CONFIGURATION = bevfusion_pku.CONFIGURATION.model_copy(
    update={"name": "bevfusion-pku-dual", "camera": HeightSwinCameraConfig(dual=True)}
)
