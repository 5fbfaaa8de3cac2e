"""SNIP: sensitivity of the loss to the removal of single connections.

Lee, Ajanthan and Torr, *SNIP: Single-shot Network Pruning based on Connection Sensitivity*, ICLR 2019, Eqs. 4-6: with
a gate c_i on every weight, ``s_i = |∂L(c ⊙ θ; D)/∂c_i| at c = 1 = |θ_i · ∂L/∂θ_i|``. The paper divides by the sum over
all weights, which orders nothing anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from altermoma_ray.pruning.criteria.criterion import ScoreCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.indicators import contribution


@dataclass(frozen=True, kw_only=True)
class Snip(ScoreCriterion):
    """``|θ · ∂L/∂θ|`` of the intact model over D, without normalisation by group.

    The formula is DeCI's (AlterMOMA Eq. 6): the difference: DeCI is compared within groups.

    >>> Snip().needs, Snip().passes(batches=8)
    ('scores', 8)
    """

    def passes(self, batches: int) -> int:
        """Each batch of D once."""
        return batches

    def scores(self, problem: Problem) -> Weights:
        """Connection sensitivities; see the class."""
        # DeCI's code, not a copy: the two criteria can then differ in the comparison alone.
        return contribution(
            problem.model, problem.names, problem.loss, problem.batches, reduce=problem.reduce, norms=problem.norms
        )
