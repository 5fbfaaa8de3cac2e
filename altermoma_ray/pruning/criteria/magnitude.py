"""One-shot magnitude pruning: weights near zero go first."""

from __future__ import annotations

from dataclasses import dataclass

from altermoma_ray.pruning.coverage import effective_weight
from altermoma_ray.pruning.criteria.criterion import ScoreCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights, parameters_named


@dataclass(frozen=True, kw_only=True)
class Magnitude(ScoreCriterion):
    """``|θ_init|``; reads no data."""

    def scores(self, problem: Problem) -> Weights:
        """Magnitudes; see the class."""
        names = parameters_named(problem.model, problem.names)
        return {name: effective_weight(problem.model, name).detach().abs() for name in names}
