"""Iterative magnitude pruning with rewinding: the lottery ticket hypothesis.

Frankle and Carbin, *The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks*, ICLR 2019. Each round
trains the remaining network, removes its smallest weights, and rewinds the others to θ_init. The fraction kept is
the same in every round, so sparsity follows an exponential schedule. Of whole channels, each round removes those of the
smallest mean magnitude over their remaining weights.

Normalisation keeps its running statistics while the rounds train, as in AlterMOMA's reactivation: the masks do not
depend on the number of workers. Every round sees the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.coverage import effective_weight
from altermoma_ray.pruning.criteria.criterion import Criterion
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import (
    adam_steps,
    evaluation,
    initial_parameters_kept,
    parameters_named,
    trained_parameters,
)
from altermoma_ray.pruning.holder import MaskHolder
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.schedules import Schedule
from altermoma_ray.pruning.targets import Target


@dataclass(frozen=True, kw_only=True)
class IMP(Criterion):
    """Rounds of training with Adam, removal of the smallest ``|θ|`` and rewinding.

    Attributes:
        rounds: how many times weights are removed.
        steps: optimisation steps of a round, one training batch each.
        learning_rate: of Adam, constant.

    >>> IMP(rounds=4, steps=60).passes(batches=8)
    240
    """

    rounds: int = 4
    steps: int = 60
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < 1 or not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(
                "IMP needs rounds >= 1, steps >= 1 and a learning rate above 0, but got "
                f"rounds={self.rounds}, steps={self.steps}, learning_rate={self.learning_rate}"
            )

    def passes(self, batches: int) -> int:
        """Every round's training."""
        return self.rounds * self.steps

    def masks(self, problem: Problem, target: Target) -> Masks:
        """The masks after the last round.

        Raises:
            UserError: the problem has no training batches.
            FloatingPointError: training diverges; the message names round and step.
        """
        weights = parameters_named(problem.model, problem.names)
        masks = Masks({name: weight.new_ones(weight.shape).bool() for name, weight in weights.items()})
        with evaluation(problem.model, problem.norms):
            for number, goal in enumerate(target.rounds(Schedule(kind="exponential", rounds=self.rounds)), start=1):
                # The rewinding: leaving the context restores θ_init, after the round's magnitudes were read.
                with initial_parameters_kept(problem.model):
                    self._train(problem, masks, f"IMP round {number}")
                    # Effective weights: under weight_norm the magnitude of a direction says nothing of the weight's.
                    left = {name: effective_weight(problem.model, name).detach().abs() for name in weights}
                    masks = problem.granularity.select(left, goal, masks)
        return masks

    def _train(self, problem: Problem, masks: Masks, phase: str) -> None:
        trajectory = adam_steps(
            problem.model,
            trained_parameters(problem.model),
            problem.loss,
            frozenset(),
            problem.training(self.steps),
            self.learning_rate,
            problem.reduce,
            phase=phase,
        )
        # Without an optimiser's state: every round begins with a new Adam, and zero gradients build up no moments.
        with MaskHolder(problem.model, problem.granularity.held(masks)) as holder:
            for _ in trajectory:
                holder.after_step()
