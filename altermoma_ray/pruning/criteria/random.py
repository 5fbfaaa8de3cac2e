"""Random pruning: the bar for every other criterion."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from altermoma_ray.pruning.criteria.criterion import ScoreCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights, parameters_named


@dataclass(frozen=True, kw_only=True)
class Random(ScoreCriterion):
    """Uniform scores drawn by the problem's seed, the same on every device; reads no data.

    >>> from torch import nn
    >>> model, groups = nn.Linear(3, 1), {"fusion": ["weight"]}
    >>> problem = Problem(model=model, groups=groups, loss=lambda batch, masked: None, batches=[], modalities=[])
    >>> bool((Random().scores(problem)["weight"] == Random().scores(problem)["weight"]).all())
    True
    """

    def scores(self, problem: Problem) -> Weights:
        """Random numbers in [0, 1), float64; see the class."""
        # On the CPU: a GPU's generator draws other numbers from the same seed.
        generator = torch.Generator().manual_seed(problem.seed)
        return {
            name: torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
            for name, weight in parameters_named(problem.model, problem.names).items()
        }
