"""The problem to score, the same for every criterion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.gradients import LossFunction, NormMode, Reduce, single_worker
from altermoma_ray.pruning.granularity import Granularity, Weight


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model at θ_init, its task, its data, and the workers sharing the work.

    A criterion reads from the problem and leaves the model unchanged: parameters, gradients, buffers and flags, also
    after an error.

    Attributes:
        model: at θ_init.
        groups: prunable weight names by parameter group.
        loss: see :data:`LossFunction`; shares, parts and workers as in :mod:`altermoma_ray.pruning.gradients`.
        batches: D, this worker's share of the batches whose gradients are averaged.
        modalities: the names the loss can mask, in the order of Algorithm 1 of AlterMOMA.
        training_batches: one a step, for reactivation, inner steps and the rounds of IMP; begun anew when too few.
        flow: sum of a model's outputs for an all-ones input to every branch (SynFlow), wherever and in whatever type
            the model's parameters are; None where there is no flow.
        norms: normalisation while the model is scored; see :data:`NormMode`.
        reduce: see :data:`Reduce`.
        seed: for random draws of a criterion.
        granularity: chooses and holds whole units, for this model: single weights, or channels by
            :meth:`altermoma_ray.pruning.granularity.Granularity.bound_to`.

    >>> layer = nn.Linear(2, 1)
    >>> problem = Problem(
    ...     model=layer,
    ...     groups={"fusion": ["weight"]},
    ...     loss=lambda batch, masked: layer(batch).sum(),
    ...     batches=[],
    ...     modalities=[],
    ...     training_batches=["first", "second"],
    ... )
    >>> problem.names, problem.training(steps=3)
    (['weight'], ['first', 'second', 'first'])
    """

    model: nn.Module
    groups: Mapping[str, Sequence[str]]
    loss: LossFunction
    batches: Sequence[Any]
    modalities: Sequence[str]
    training_batches: Sequence[Any] = ()
    flow: Callable[[nn.Module], Tensor] | None = None
    norms: NormMode = "running"
    reduce: Reduce = single_worker
    seed: int = 0
    granularity: Granularity = field(default_factory=Weight)

    @property
    def names(self) -> list[str]:
        """The prunable weights, in the groups' order."""
        return [name for names in self.groups.values() for name in names]

    def training(self, steps: int) -> list[Any]:
        """Training batches for so many steps, from the first on.

        Raises:
            UserError: there is none.
        """
        if len(self.training_batches) == 0:
            raise UserError(f"{steps} training steps need training batches, but the problem has none: give one a step")
        # By index from the start: every call, on every worker, sees the same batches in the same order.
        return [self.training_batches[step % len(self.training_batches)] for step in range(steps)]
