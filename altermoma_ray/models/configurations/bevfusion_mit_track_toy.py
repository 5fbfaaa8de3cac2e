"""The small twin of ``bevfusion-mit-track``: ``bevfusion-mit-toy`` with the tracker behind it."""

from altermoma_ray.models.configurations import bevfusion_mit_toy
from altermoma_ray.models.configurations.tracker import TrackerConfig

CONFIGURATION = bevfusion_mit_toy.CONFIGURATION.model_copy(
    update={"name": "bevfusion-mit-track-toy", "tracker": TrackerConfig()}
)
