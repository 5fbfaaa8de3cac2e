"""What ``python -m altermoma_ray.search nusc`` searches on nuScenes."""

from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace()
