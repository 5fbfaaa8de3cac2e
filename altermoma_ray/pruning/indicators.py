"""DeCI and ReRI: the contribution of each weight, and the redundant part of it (AlterMOMA Eqs. 6, 10, 26, 34, 35).

Notation (Sun et al., NeurIPS 2024, arXiv 2409.17728)::

    θ         all parameters; θ_i a prunable weight; θ_init their values in the checkpoint
    μ_m = 0   modality m is masked: its encoder is off and the fusion sees zeros instead of its features
    L(μ; D)   task loss under a mask, the mean over the batches D
    B         number of reactivation steps, one batch each
    θ_B       the parameters after B steps of Adam on L(μ_m = 0), started from θ_init
    DeCI_i    | θ_init,i · ∂L(; D)/∂θ_i |                                                       Eq. 6
    ReRI_i    | θ_init,i · ∂L(μ_m=0; D)/∂θ_i at θ_init − θ_init,i · ∂L(μ_m=0; D_B)/∂θ_i at θ_B |    Eqs. 10, 26, 34, 35

The paper takes the second gradient on D_B, the last reactivation batch. ReRI then also holds the difference between
two sets of data. ``Reactivation.gradient`` chooses: ``last-batch`` is the paper to the letter; with ``scoring-batches``
the second gradient is taken on D as well, and the two gradients differ by the reactivation alone.

For gradients, workers and losses see :mod:`altermoma_ray.pruning.gradients`. Gradients are summed over the workers once
per quantity and once per reactivation step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

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

ReactivationGradient = Literal["last-batch", "scoring-batches"]
"""The data of ReRI's second gradient: D_B, the last batch of reactivation (the paper), or D, the scoring batches."""


@dataclass(frozen=True, kw_only=True, order=True)
class Reactivation:
    """How long and how fast the masked model trains before its second gradient, and the data of that gradient.

    >>> Reactivation(steps=8, learning_rate=1e-4, gradient="last-batch")
    Reactivation(steps=8, learning_rate=0.0001, gradient='last-batch')

    Attributes:
        steps: B, optimisation steps of Adam, one batch each.
        learning_rate: constant learning rate.
        gradient: data of the second gradient; see :data:`ReactivationGradient`.
    """

    steps: int
    learning_rate: float
    gradient: ReactivationGradient = "scoring-batches"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"reactivation needs steps >= 1, but got steps={self.steps}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"reactivation needs a learning rate above 0, but got learning_rate={self.learning_rate}")
        if self.gradient not in get_args(ReactivationGradient):
            raise UserError(
                f"reactivation takes its second gradient on {' or '.join(get_args(ReactivationGradient))}, but got "
                f"gradient={self.gradient!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Indicators:
    """The ingredients of AlterEva's scores; independent of ratios, α and β.

    Attributes:
        contribution: DeCI of every prunable weight.
        redundancy: ReRI by masked modality, each for the weights of the other groups.

    >>> import torch
    >>> found = Indicators(
    ...     contribution={"camera.weight": torch.ones(2)}, redundancy={"lidar": {"camera.weight": torch.zeros(2)}}
    ... )
    >>> sorted(found.to_tensors())
    ['contribution/camera.weight', 'redundancy/lidar/camera.weight']
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
            # Split at most twice: a parameter's own name may hold a slash.
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

    The model is scored in evaluation mode and left unchanged.

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
) -> dict[Reactivation, Weights]:
    """ReRI, the reactivated redundancy indicator, under one masked modality (AlterMOMA Eqs. 10, 26, 34, 35).

    All parameters with ``requires_grad`` are trained; the masked branch gets no gradient and stays. Settings with the
    same learning rate share one trajectory, since the shorter is a prefix of the longer. Parameters, buffers, gradients
    and flags are restored at the end, also after an error.

    Args:
        model: at θ_init.
        names: the weights to score, of the other modalities and of the fusion.
        loss: see :data:`LossFunction`.
        masked: the modality m with μ_m = 0.
        batches: D, for the gradient before, and for the one after unless a setting says ``last-batch``.
        reactivation_batches: D_1 ... D_B, at least as many as the longest setting has steps.
        settings: the reactivations to read off.
        reduce: see :data:`Reduce`.
        norms: see :data:`NormMode`.

    Returns:
        For each setting, non-negative tensors in the shapes of the weights, the same on all workers.

    Raises:
        UserError: there are too few reactivation batches.
        FloatingPointError: a loss or a gradient is not finite; the message names the step. Raised on all workers.
    """
    _check_enough(reactivation_batches, settings)
    scored = parameters_named(model, names)
    trained = trained_parameters(model)
    mask = frozenset({masked})
    by_rate: dict[float, list[Reactivation]] = {}
    for setting in dict.fromkeys(settings):  # repeated settings once, in an order shared by all workers
        by_rate.setdefault(setting.learning_rate, []).append(setting)

    results: dict[Reactivation, Weights] = {}
    with evaluation(model, norms):
        before = mean_gradient(model, scored, loss, mask, batches, reduce)  # one for all settings, at θ_init
        for learning_rate, wanted in sorted(by_rate.items()):  # all workers must reduce in one order
            after: dict[Reactivation, Weights] = {}
            steps = max(setting.steps for setting in wanted)
            with initial_parameters_kept(model):
                trajectory = adam_steps(model, trained, loss, mask, reactivation_batches[:steps], learning_rate, reduce)
                for step in trajectory:  # measuring moves no parameter: longer settings go on from here
                    for setting in [setting for setting in wanted if setting.steps == step]:
                        last = setting.gradient == "last-batch"
                        data = [reactivation_batches[step - 1]] if last else batches
                        after[setting] = mean_gradient(model, scored, loss, mask, data, reduce)
            # Only here are the parameters θ_init again, which the product needs.
            results |= {setting: _moved(scored, before, gradient) for setting, gradient in after.items()}
    return results


def _check_enough(batches: Sequence[Any], settings: Sequence[Reactivation]) -> None:
    longest = max((setting.steps for setting in settings), default=0)
    if len(batches) < longest:
        raise UserError(
            f"reactivation of {longest} steps needs as many batches, but got {len(batches)}: "
            "give more data or fewer steps"
        )


def _moved(parameters: Mapping[str, nn.Parameter], before: Weights, after: Weights) -> Weights:
    """|θ·g − θ·g_B| as |θ·(g − g_B)|, where θ is θ_init again; ``before`` is g and ``after`` g_B."""
    # One product instead of two, and no cancellation of two rounded products.
    return {
        name: (before[name] - after[name]).mul_(parameter.detach()).abs_() for name, parameter in parameters.items()
    }
