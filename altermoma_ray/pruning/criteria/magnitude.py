"""One-shot magnitude pruning: weights near zero go first."""

from __future__ import annotations

from dataclasses import dataclass

from altermoma_ray.pruning.coverage import effective_weight
from altermoma_ray.pruning.criteria.criterion import ScoreCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights, parameters_named


@dataclass(frozen=True, kw_only=True)
class Magnitude(ScoreCriterion):
    """``|θ_init|``; reads no data.

    >>> from torch import nn
    >>> model = nn.Linear(3, 1)
    >>> model.weight.data.copy_(model.weight.new_tensor([[-2.0, 0.5, 1.0]])).shape
    torch.Size([1, 3])
    >>> groups = {"fusion": ["weight"]}
    >>> problem = Problem(model=model, groups=groups, loss=lambda batch, masked: None, batches=[], modalities=[])
    >>> Magnitude().scores(problem)["weight"].tolist()
    [[2.0, 0.5, 1.0]]
    """

    def scores(self, problem: Problem) -> Weights:
        """Magnitudes; see the class."""
        names = parameters_named(problem.model, problem.names)
        # The computed weight: under weight_norm a parameter's own size is no measure.
        return {name: effective_weight(problem.model, name).detach().abs() for name in names}
