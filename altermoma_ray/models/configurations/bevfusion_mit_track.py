"""The published BEVFusion detector with a tracker behind it (Liu et al., ICRA 2023; Sun et al., NeurIPS 2024).

mit-han-lab/bevfusion has no tracker; the tracker is CenterPoint's, by centre and velocity (Yin et al., CVPR 2021).
"""

from altermoma_ray.models.configurations import bevfusion_mit
from altermoma_ray.models.configurations.tracker import TrackerConfig

CONFIGURATION = bevfusion_mit.CONFIGURATION.model_copy(
    update={"name": "bevfusion-mit-track", "tracker": TrackerConfig()}
)
