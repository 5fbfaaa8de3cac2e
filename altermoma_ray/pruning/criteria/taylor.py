"""First-order Taylor criterion, batch part by batch part (Molchanov et al., ICLR 2017, arXiv 1611.06440, section 2.2).

Notation: D falls into parts (micro-batches of a few samples) whose losses L_p sum to the mean loss L::

    SNIP, DeCI      | θ_i · Σ_p ∂L_p/∂θ_i |
    here            Σ_p | θ_i · ∂L_p/∂θ_i |

The reason for a criterion beside SNIP: the gradient of L is near zero in a trained model, because the gradients of its
parts cancel. The rest depends mostly on the parts drawn, and two draws of D keep different weights. The magnitudes do
not cancel, and agree between draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from altermoma_ray.pruning.criteria.criterion import ScoreCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights, evaluation, mean_gradient, parameters_named


@dataclass(frozen=True, kw_only=True)
class Taylor(ScoreCriterion):
    """Contributions whose signs do not cancel between the parts of D, without normalisation by group.

    >>> Taylor().needs, Taylor().passes(batches=8)
    ('scores', 8)
    """

    def passes(self, batches: int) -> int:
        """Each batch of D once."""
        return batches

    def scores(self, problem: Problem) -> Weights:
        """Sums of magnitudes; see the module."""
        scored = parameters_named(problem.model, problem.names)
        # absolute=True adds up magnitudes part by part, before anything can cancel, on every worker alike.
        with evaluation(problem.model, problem.norms):
            gradient = mean_gradient(
                problem.model, scored, problem.loss, frozenset(), problem.batches, problem.reduce, absolute=True
            )
        return gradient.contributions(scored)
