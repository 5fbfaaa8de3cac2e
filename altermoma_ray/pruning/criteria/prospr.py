"""ProsPr: which weights matter to the loss after a few steps of training.

Alizadeh et al., *Prospect Pruning: Finding Trainable Weights at Initialization using Meta-Gradients*, ICLR 2022.

Notation::

    m         gates on the prunable weights, at 1; θ_0 = m ⊙ θ_init, other parameters as they are
    θ_t+1     = θ_t − η ∇L(θ_t; D_t)          t = 0 ... T−1, one training batch each, SGD without momentum
    v_t       = dL(θ_T; D)/dθ_t               the meta-gradient; v_T = ∇L(θ_T; D)
    H_t       Hessian of L(θ_t; D_t)
    score     |dL(θ_T; D)/dm| = |θ_init ⊙ v_0|

Unrolling the steps gives ``v_t = v_t+1 − η H_t v_t+1``, which is computed backwards from v_T. Sparse convolutions have
no second derivative, so the products are central differences of gradients, ``H v ≈ (∇L(θ + εv) − ∇L(θ − εv)) / 2ε``,
whose error is O(ε²). The authors take the last loss on one batch; here it is the mean over D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.criteria.criterion import ScoreCriterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import (
    Gradients,
    Weights,
    evaluation,
    initial_parameters_kept,
    mean_gradient,
    parameters_named,
    trained_parameters,
)

STEP = 0.25
"""Length of a difference's step, in ∛(machine epsilon) · ‖θ‖: the cube root balances rounding and truncation.

A detector's gradient has kinks besides (ReLU, matching, choice of proposals), which a step must average over. On the
toy model in float32, products change least about here: their cosine to those of half and of twice the step is 0.92.
"""


@dataclass(frozen=True, kw_only=True)
class ProsPr(ScoreCriterion):
    """``|θ_init ⊙ dL(θ_T)/dθ_0|``.

    Attributes:
        steps: T, inner steps of SGD; with 0 the score is SNIP's.
        learning_rate: η. The authors' 0.1 is for untrained networks; at 0.1 the loss of the trained toy model rises.

    >>> ProsPr(steps=3).passes(batches=8)
    17
    """

    steps: int = 3
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 0 or not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(
                "ProsPr needs steps >= 0 and a learning rate above 0, "
                f"but got steps={self.steps}, learning_rate={self.learning_rate}"
            )

    def passes(self, batches: int) -> int:
        """D once; for each inner step its own gradient and the two of its Hessian-vector product."""
        return batches + 3 * self.steps

    def scores(self, problem: Problem) -> Weights:
        """Meta-gradient scores; see the class."""
        scored = parameters_named(problem.model, problem.names)
        trained = trained_parameters(problem.model)
        # Weights without requires_grad are scored too, though no step moves them.
        everything = trained | scored
        batches = problem.training(self.steps) if self.steps else []
        with evaluation(problem.model, problem.norms):
            with initial_parameters_kept(problem.model):
                states = []
                for batch in batches:
                    # The backward pass needs θ_t of every step: T copies of the trained parameters.
                    states.append(_values(trained))
                    # Plain SGD: momentum or Adam would add terms to the recursion of v_t.
                    gradient = _gradient(problem, trained, [batch])
                    _move(trained, states[-1], gradient, -self.learning_rate)
                meta = _gradient(problem, everything, problem.batches)
                for batch, state in zip(reversed(batches), reversed(states), strict=True):
                    product = _hessian_product(problem, everything, state, meta, batch)
                    for name, value in meta.items():
                        value.sub_(product[name], alpha=self.learning_rate)
            # Only here, with θ_init restored: the score is θ_init ⊙ v_0, not θ_T ⊙ v_0.
            return meta.contributions(scored)


def _gradient(problem: Problem, parameters: Mapping[str, nn.Parameter], batches: Any) -> Gradients:
    return mean_gradient(problem.model, parameters, problem.loss, frozenset(), batches, problem.reduce)


def _hessian_product(
    problem: Problem, parameters: Mapping[str, nn.Parameter], state: Weights, direction: Weights, batch: Any
) -> Weights:
    """``H v`` for all parameters at a state, v being the trained part of the direction (as the state is)."""
    length = _norm([direction[name] for name in state])
    # No direction, no product: the division below would give NaN.
    if length == 0:
        return {name: torch.zeros_like(value) for name, value in direction.items()}
    # The coarsest type decides: a smaller step would vanish in its rounding.
    precision = max(torch.finfo(value.dtype).eps for value in state.values())
    epsilon = STEP * precision ** (1 / 3) * (_norm(list(state.values())) or 1.0) / length
    trained = {name: parameters[name] for name in state}
    _move(trained, state, direction, epsilon)
    above = _gradient(problem, parameters, [batch])
    # From the saved state, not back by 2ε: rounding would leave the parameters a little off.
    _move(trained, state, direction, -epsilon)
    below = _gradient(problem, parameters, [batch])
    return {name: above[name].sub_(below[name]).div_(2 * epsilon) for name in parameters}


@torch.no_grad()
def _move(parameters: Mapping[str, nn.Parameter], start: Weights, direction: Weights, distance: float) -> None:
    """Set the parameters to ``start + distance · direction``."""
    for name, parameter in parameters.items():
        parameter.copy_(start[name]).add_(direction[name], alpha=distance)


def _values(parameters: Mapping[str, nn.Parameter]) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _norm(tensors: list[Tensor]) -> float:
    return sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
