"""The space of the comparisons in docs/evidence.md: B = 16, and ReRI's second gradient on the scoring batches."""

from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(reactivation_steps=(16,), published_gradient="scoring-batches")
