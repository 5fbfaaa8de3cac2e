"""SynFlow: iterative pruning without data, with the flow through a network conserved.

Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*, NeurIPS 2020.

Notation::

    R     = 1ᵀ ∏ |θ| 1, the sum of the outputs of the network of magnitudes for inputs of ones       Eq. 3
    score = |θ ∂R/∂θ|, of the remaining network; each round prunes a little more (Algorithm 1)

Flow is conserved over layers: the sum of a layer's scores does not depend on its size. Weights of a layer with few
left therefore score high, and no layer on all paths is emptied before the others. One-shot pruning lacks this
property, hence the many rounds. Of whole channels, the score is the mean over a channel's remaining weights. How
trained norms, attention and so on fit in is the subject of :mod:`altermoma_ray.pruning.criteria.linear_flow`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.criteria.criterion import Criterion
from altermoma_ray.pruning.criteria.linear_flow import LinearFlow, linear_copy
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights, parameters_named
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.schedules import Schedule
from altermoma_ray.pruning.targets import Target


@dataclass(frozen=True, kw_only=True)
class SynFlow(Criterion):
    """Rounds of scoring by flow and pruning, on an exponential schedule.

    All is computed on a copy in float64. Workers do not share the work: each computes the same from the same flow.

    Attributes:
        rounds: how many times weights are removed.
        balanced: whether parallel branches are weighed by their normalisations; without, the deepest branch of a fusion
            model takes all the flow, and the others are emptied.

    >>> SynFlow(rounds=100).needs, SynFlow().needs_flow
    ('masks', True)
    """

    needs_flow: ClassVar[bool] = True

    rounds: int = 100
    balanced: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"SynFlow needs rounds >= 1, but got rounds={self.rounds}")

    def masks(self, problem: Problem, target: Target) -> Masks:
        """The masks after the last round.

        Raises:
            UserError: the problem has no flow.
            FloatingPointError: the flow is not finite, or zero; the message names the round.
        """
        if problem.flow is None:
            raise UserError("SynFlow needs the problem's flow: a function of the model that sums its outputs for ones")
        model = linear_copy(problem.model)
        weights = parameters_named(model, problem.names)
        # linear_copy switches all gradients off; activations need a path to the weights, and only to these.
        for weight in weights.values():
            weight.requires_grad_(True)
        masks = Masks({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()})
        for number, goal in enumerate(target.rounds(Schedule(kind="exponential", rounds=self.rounds)), start=1):
            scores = self._scores(model, weights, problem.flow, number)
            # Earlier masks too: remaining weights may score zero, as all pruned ones do.
            masks = problem.granularity.select(scores, goal, masks)
            for name, weight in weights.items():
                # Zeros in the copy take the pruned paths out of the next round's flow.
                weight.detach().masked_fill_(~masks[name], 0)
        # The copy is on the CPU; masks belong where the model's weights are.
        devices = {name: weight.device for name, weight in parameters_named(problem.model, problem.names).items()}
        return Masks({name: mask.to(devices[name]) for name, mask in masks.items()}, masks.floored)

    def _scores(
        self, model: nn.Module, weights: dict[str, nn.Parameter], flow: Callable[[nn.Module], Tensor], number: int
    ) -> Weights:
        """``|θ ∂R/∂θ|``; zero for weights on no path."""
        place = f"in round {number} of {self.rounds}"
        remedy = "let the problem's flow take inputs of another size, which changes no order"
        with torch.enable_grad(), LinearFlow(balanced=self.balanced):
            total = flow(model)
            value = float(total.detach())
            # Magnitudes multiply from layer to layer, and leave even float64 in a deep network.
            if not isfinite(value) or value == 0:
                raise FloatingPointError(f"the synaptic flow is {value} {place}: {remedy}")
            # allow_unused: weights on no path from input to output are legal, and score zero.
            gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
        scores: Weights = {}
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            scores[name] = (weight.detach() * gradient).abs_()
            if not bool(torch.isfinite(scores[name]).all()):
                raise FloatingPointError(f"the synaptic flow through '{name}' is not finite {place}: {remedy}")
        return scores
