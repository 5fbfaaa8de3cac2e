"""AlterMOMA: contribution less redundancy (Sun et al., NeurIPS 2024, arXiv 2409.17728, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from altermoma_ray.pruning.altereva import Normalisation, altereva
from altermoma_ray.pruning.criteria.criterion import IndicatorCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.indicators import Indicators, Reactivation, contribution, redundancy
from altermoma_ray.pruning.masking import check_masking

REACTIVATION = Reactivation(steps=8, learning_rate=1e-4)
"""The learning rate is the paper's; the paper does not tell its B."""


@dataclass(frozen=True, kw_only=True)
class AlterMOMA(IndicatorCriterion):
    """AlterEva's scores. With ``beta=0`` DeCI decides alone, with ``alpha=0`` ReRI does.

    Attributes:
        alpha: α, weight of the contribution.
        beta: β, weight of the redundancy; with 0 nothing is masked or reactivated.
        reactivation: how long and how fast the masked model trains.
        normalisation: the divisor of each indicator's values, the sum over its parameter group (the paper's) or
            over its layer.

    >>> import torch
    >>> indicators = Indicators(
    ...     contribution={"camera.weight": torch.tensor([3.0, 1.0])},
    ...     redundancy={"lidar": {"camera.weight": torch.tensor([1.0, 1.0])}},
    ... )
    >>> AlterMOMA(alpha=1.0, beta=1.0).combine(indicators, {"camera": ["camera.weight"]})["camera.weight"].tolist()
    [0.25, -0.25]
    """

    alpha: float = 1.0
    beta: float = 1.0
    reactivation: Reactivation = REACTIVATION
    normalisation: Normalisation = "group"

    @property
    def reads(self) -> Reactivation | None:
        """The reactivation; None with β = 0."""
        return None if self.beta == 0 else self.reactivation

    def scores(self, problem: Problem) -> Weights:
        """AlterEva's scores of fresh indicators."""
        return self.combine(self.indicators(problem), problem.groups)

    def indicators(self, problem: Problem) -> Indicators:
        """DeCI, and ReRI with each modality masked in turn if β is not 0.

        Raises:
            UserError: β is not 0, and a modality cannot be masked; see :func:`altermoma_ray.pruning.check_masking`.
        """
        # Before anything costly: a loss deaf to masks would waste the whole scoring.
        if self.beta != 0:
            check_masking(
                problem.model,
                problem.loss,
                problem.groups,
                problem.modalities,
                problem.batches,
                reduce=problem.reduce,
                norms=problem.norms,
            )
        found = Indicators(
            contribution=contribution(
                problem.model, problem.names, problem.loss, problem.batches, reduce=problem.reduce, norms=problem.norms
            ),
            redundancy={},
        )
        # DeCI alone decides: the passes with a masked modality, the costly part, are spared.
        if self.beta == 0:
            return found
        for masked in problem.modalities:
            found.redundancy[masked] = redundancy(
                problem.model,
                # The masked group's own gradients are zero: Algorithm 1 scores only the others.
                [name for group, names in problem.groups.items() if group != masked for name in names],
                problem.loss,
                masked,
                problem.batches,
                problem.training(self.reactivation.steps),
                [self.reactivation],
                reduce=problem.reduce,
                norms=problem.norms,
            )[self.reactivation]
        return found

    def combine(self, indicators: Indicators, groups: Mapping[str, Sequence[str]]) -> Weights:
        """AlterEva's scores of known indicators."""
        return altereva(indicators, groups, alpha=self.alpha, beta=self.beta, normalisation=self.normalisation)
