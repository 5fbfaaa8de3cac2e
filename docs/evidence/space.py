"""What the comparisons of docs/evidence.md were run with: the default space, but B = 16."""

from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(reactivation_steps=(16,))
