"""DeCI and ReRI: how much each weight contributes, and how much of it is redundant (AlterMOMA Eqs. 6, 10, 26, 34, 35).

Notation (Sun et al., NeurIPS 2024, arXiv 2409.17728)::

    θ         all parameters; θ_i a prunable weight; θ_init their values in the checkpoint
    μ_m = 0   modality m is masked: its encoder is off and the fusion sees zeros instead of its features
    L(μ; D)   task loss under a mask, the mean over the batches D
    B         number of reactivation steps, one batch each
    θ_B       the parameters after B steps of Adam on L(μ_m = 0), started from θ_init
    DeCI_i    | θ_init,i · ∂L(; D)/∂θ_i |                                                       Eq. 6
    ReRI_i    | θ_init,i · ∂L(μ_m=0; D)/∂θ_i at θ_init − θ_init,i · ∂L(μ_m=0; D_B)/∂θ_i at θ_B |    Eqs. 10, 26, 34, 35

Interpretation: the paper takes the second gradient on D_B, the last reactivation batch, so that ReRI also holds the
difference between two sets of data. Here D_B = D unless ``after_batches`` says otherwise: what differs between the two
gradients is then the reactivation alone.

Gradients, workers and what a loss is: see :mod:`altermoma_ray.pruning.gradients`. They are summed over the workers once
per quantity and once per reactivation step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.gradients import (
    LossFunction,
    NormMode,
    Reduce,
    Weights,
    adam_steps,
    evaluation,
    initial_parameters_kept,
    mean_gradient,
    parameters_named,
    single_worker,
    trained_parameters,
)


@dataclass(frozen=True, kw_only=True, order=True)
class Reactivation:
    """How long and how fast the masked model trains before its second gradient.

    Attributes:
        steps: B, optimisation steps of Adam, one batch each.
        learning_rate: constant learning rate.
    """

    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"reactivation needs steps >= 1, but got steps={self.steps}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"reactivation needs a learning rate above 0, but got learning_rate={self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Indicators:
    """Everything that the scores of AlterEva are made from; independent of ratios, α and β.

    Attributes:
        contribution: DeCI of every prunable weight.
        redundancy: ReRI by masked modality, each for the weights of the other groups.
    """

    contribution: Weights
    redundancy: dict[str, Weights]

    def to_tensors(self) -> Weights:
        """Flat tensors on the CPU, ready for safetensors. The files of several groups may be merged."""
        flat = {f"contribution/{name}": value for name, value in self.contribution.items()}
        for masked, weights in self.redundancy.items():
            flat.update({f"redundancy/{masked}/{name}": value for name, value in weights.items()})
        return {key: value.detach().cpu().contiguous() for key, value in flat.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Indicators:
        """Inverse of :meth:`to_tensors`.

        Raises:
            UserError: a key is not one of an indicator.
        """
        contribution: Weights = {}
        redundancy: dict[str, Weights] = {}
        for key, value in tensors.items():
            match key.split("/", 2):
                case ["contribution", name]:
                    contribution[name] = value
                case ["redundancy", masked, name]:
                    redundancy.setdefault(masked, {})[name] = value
                case _:
                    raise UserError(f"'{key}' is not an indicator: this file was not written by Indicators.to_tensors")
        return cls(contribution=contribution, redundancy=redundancy)


def contribution(
    model: nn.Module,
    names: Iterable[str],
    loss: LossFunction,
    batches: Sequence[Any],
    *,
    reduce: Reduce = single_worker,
    norms: NormMode = "running",
) -> Weights:
    """DeCI, the deactivated contribution indicator of the intact model (AlterMOMA Eq. 6).

    The model is scored in evaluation mode and left exactly as it was found.

    Args:
        model: at θ_init.
        names: the weights to score.
        loss: see :data:`LossFunction`.
        batches: D.
        reduce: see :data:`Reduce`.
        norms: see :data:`NormMode`.

    Returns:
        Non-negative tensors in the shapes of the weights, the same on all workers; infinite for frozen parts, to which
        no gradient leads.

    Raises:
        UserError: no gradient leads to any of the weights.
        FloatingPointError: a loss or a gradient is not finite; raised on all workers.
    """
    scored = parameters_named(model, names)
    with evaluation(model, norms):
        gradient = mean_gradient(model, scored, loss, frozenset(), batches, reduce)
    return gradient.contributions(scored)


def redundancy(
    model: nn.Module,
    names: Iterable[str],
    loss: LossFunction,
    masked: str,
    batches: Sequence[Any],
    reactivation_batches: Sequence[Any],
    settings: Sequence[Reactivation],
    *,
    reduce: Reduce = single_worker,
    norms: NormMode = "running",
    after_batches: Callable[[int], Sequence[Any]] | None = None,
) -> dict[Reactivation, Weights]:
    """ReRI, the reactivated redundancy indicator, under one masked modality (AlterMOMA Eqs. 10, 26, 34, 35).

    All parameters that require gradients are trained; those of the masked branch get none and stay. Settings with the
    same learning rate share one trajectory, since the shorter is a prefix of the longer. Parameters, buffers, gradients
    and flags are what they were afterwards, also when an error is raised.

    Args:
        model: at θ_init.
        names: the weights to score: those of the other modalities and of the fusion.
        loss: see :data:`LossFunction`.
        masked: the modality m with μ_m = 0.
        batches: D, for the gradients before and after.
        reactivation_batches: D_1 ... D_B, at least as many as the longest setting has steps.
        settings: the reactivations to read off.
        reduce: see :data:`Reduce`.
        norms: see :data:`NormMode`.
        after_batches: D_B given B, for the gradients after; ``lambda steps: [reactivation_batches[steps - 1]]`` is
            the paper to the letter. Default: D.

    Returns:
        For each setting, non-negative tensors in the shapes of the weights, the same on all workers.

    Raises:
        UserError: there are too few reactivation batches.
        FloatingPointError: a loss or a gradient is not finite; the message names the step. Raised on all workers.
    """
    longest = max((setting.steps for setting in settings), default=0)
    if len(reactivation_batches) < longest:
        raise UserError(
            f"reactivation of {longest} steps needs as many batches, but got {len(reactivation_batches)}: "
            "give more data or fewer steps"
        )
    scored = parameters_named(model, names)
    trained = trained_parameters(model)
    mask = frozenset({masked})
    steps_by_rate: dict[float, set[int]] = {}
    for setting in settings:
        steps_by_rate.setdefault(setting.learning_rate, set()).add(setting.steps)

    results: dict[Reactivation, Weights] = {}
    with evaluation(model, norms):
        before = mean_gradient(model, scored, loss, mask, batches, reduce)
        for learning_rate, wanted in sorted(steps_by_rate.items()):
            after: dict[int, Weights] = {}
            with initial_parameters_kept(model):
                trajectory = adam_steps(
                    model, trained, loss, mask, reactivation_batches[: max(wanted)], learning_rate, reduce
                )
                for step in trajectory:
                    if step in wanted:
                        data = batches if after_batches is None else after_batches(step)
                        after[step] = mean_gradient(model, scored, loss, mask, data, reduce)
            for step, gradient in after.items():
                # |θ·g − θ·g_B| as |θ·(g − g_B)|; θ is θ_init again.
                results[Reactivation(steps=step, learning_rate=learning_rate)] = {
                    name: (before[name] - gradient[name]).mul_(parameter.detach()).abs_()
                    for name, parameter in scored.items()
                }
    return results
