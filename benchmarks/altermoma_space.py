"""AlterMOMA alone, all of its own settings varied: for ``python -m benchmarks.throughput --space``."""

from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    criteria=("altermoma", "deci"),  # deci is β = 0
    reactivation_steps=(4, 16),
    reactivation_learning_rates=(1e-4, 1e-3),
)
