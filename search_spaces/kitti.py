"""What ``python -m altermoma_ray.search kitti`` searches on KITTI."""

from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace()
