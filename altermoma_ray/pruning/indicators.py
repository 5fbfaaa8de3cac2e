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

Workers: all hold the same model and are given as many batches as there are in all, of which each computes a share. The
shares of one reactivation batch must sum to its mean loss; those of D as a whole to the sum of its batches' losses,
whoever computes which. Gradients are summed over the workers once per quantity and once per reactivation step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError

Weights = dict[str, Tensor]
"""Tensors keyed by parameter name."""

LossFunction = Callable[[Any, frozenset[str]], "Tensor | Iterable[Tensor] | None"]
"""``loss(batch, masked)``: this worker's share of a batch's mean loss under masked modalities; None if it has none.

A share is one scalar, or several that are computed one after another (a generator over parts of the batch: each is
back-propagated before the next is asked for). The sum of all workers' shares is the batch's mean loss. A detector's
loss has discrete choices in it, so the last bit of a sum can turn one of them: where parts are the same samples on any
number of workers, indicators are the same too, since parts are summed in float64.
"""

Reduce = Callable[[list[Tensor]], None]
"""Replaces each tensor, in place, by its sum over the workers."""


def single_worker(tensors: list[Tensor]) -> None:
    """The reduction of one worker: nothing to sum."""


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
) -> Weights:
    """DeCI, the deactivated contribution indicator of the intact model (AlterMOMA Eq. 6).

    The model is scored in evaluation mode and left exactly as it was found.

    Args:
        model: at θ_init.
        names: the weights to score.
        loss: see :data:`LossFunction`.
        batches: D.
        reduce: see :data:`Reduce`.

    Returns:
        Non-negative tensors in the shapes of the weights, the same on all workers.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; raised on all workers.
    """
    scored = _parameters(model, names)
    with _evaluation(model):
        gradient = _gradient(model, scored, loss, frozenset(), batches, reduce)
    return {name: (parameter.detach() * gradient[name]).abs_() for name, parameter in scored.items()}


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
    scored = _parameters(model, names)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    mask = frozenset({masked})
    steps_by_rate: dict[float, set[int]] = {}
    for setting in settings:
        steps_by_rate.setdefault(setting.learning_rate, set()).add(setting.steps)

    results: dict[Reactivation, Weights] = {}
    with _evaluation(model):
        before = _gradient(model, scored, loss, mask, batches, reduce)
        for learning_rate, wanted in sorted(steps_by_rate.items()):
            after: dict[int, Weights] = {}
            with _initial_parameters_kept(model):
                trajectory = _reactivate(
                    model, trained, loss, mask, reactivation_batches, max(wanted), learning_rate, reduce
                )
                for step in trajectory:
                    if step in wanted:
                        data = batches if after_batches is None else after_batches(step)
                        after[step] = _gradient(model, scored, loss, mask, data, reduce)
            for step, gradient in after.items():
                # |θ·g − θ·g_B| as |θ·(g − g_B)|; θ is θ_init again.
                results[Reactivation(steps=step, learning_rate=learning_rate)] = {
                    name: (before[name] - gradient[name]).mul_(parameter.detach()).abs_()
                    for name, parameter in scored.items()
                }
    return results


def _reactivate(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    loss: LossFunction,
    mask: frozenset[str],
    batches: Sequence[Any],
    steps: int,
    learning_rate: float,
    reduce: Reduce,
) -> Iterator[int]:
    """Train the masked model with Adam, one step a batch; yield the number of steps done."""
    optimizer = torch.optim.Adam(trained.values(), lr=learning_rate, foreach=True)
    gradients = _GradientBuffer(model, trained, losses=1)
    for step, batch in enumerate(islice(batches, steps), start=1):
        gradients.clear()
        with gradients.collecting():
            gradients.add(loss(batch, mask))
            place = f"reactivation step {step} (learning rate {learning_rate})"
            gradients.sum_over_workers(reduce, [place], mask)
            optimizer.step()
        yield step


def _gradient(
    model: nn.Module,
    scored: Mapping[str, nn.Parameter],
    loss: LossFunction,
    mask: frozenset[str],
    batches: Sequence[Any],
    reduce: Reduce,
) -> Weights:
    """Gradient of the mean loss over ``batches``, summed over the workers."""
    if len(batches) == 0:
        raise UserError("scoring needs at least one batch, but got none")
    gradients = _GradientBuffer(model, scored, losses=len(batches))
    with gradients.collecting():
        for index, batch in enumerate(batches):
            gradients.add(loss(batch, mask), index)
    places = [f"scoring batch {number} of {len(batches)}" for number in range(1, len(batches) + 1)]
    gradients.sum_over_workers(reduce, places, mask, divisor=len(batches))
    return gradients.views


class _GradientBuffer:
    """Gradients laid side by side in one buffer, so that one call sums them over the workers.

    While collecting, each parameter's ``grad`` is a view of the buffer, into which autograd adds in place, and a
    parameter that a worker's loss does not reach has a gradient of zero there. What each part of the loss leaves is
    added to a total in float64, so that the order of summation is lost in rounding. The losses lie in the same buffer,
    so that all workers learn of a failure in the same reduction.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], losses: int) -> None:
        self.parameters = parameters
        self.all_parameters = list(model.parameters())
        self.buffers: list[Tensor] = []  # one for each device and type, which is one in nearly every model
        self.totals: list[Tensor] = []
        self.views: Weights = {}
        kinds: dict[tuple[torch.device, torch.dtype], list[str]] = {}
        for name, parameter in parameters.items():
            kinds.setdefault((parameter.device, parameter.dtype), []).append(name)
        for (device, dtype), names in kinds.items():
            sizes = [parameters[name].numel() for name in names]
            buffer = torch.zeros(sum(sizes) + losses, device=device, dtype=dtype)
            *pieces, self.losses = buffer.split_with_sizes([*sizes, losses])
            self.views.update(
                {name: piece.view_as(parameters[name]) for name, piece in zip(names, pieces, strict=True)}
            )
            self.buffers.append(buffer)
            self.totals.append(torch.zeros_like(buffer, dtype=torch.float64))

    def clear(self) -> None:
        for tensor in (*self.buffers, *self.totals):
            tensor.zero_()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Only these parameters require gradients, and collect them here; flags and gradients are restored."""
        found = [(parameter, parameter.requires_grad, parameter.grad) for parameter in self.all_parameters]
        try:
            for parameter, _, _ in found:
                parameter.requires_grad_(False)
            for name, parameter in self.parameters.items():
                parameter.requires_grad_(True)
                parameter.grad = self.views[name]
            with torch.enable_grad():
                yield
        finally:
            for parameter, flag, gradient in found:
                parameter.requires_grad_(flag)
                parameter.grad = gradient

    def add(self, share: Tensor | Iterable[Tensor] | None, index: int = 0) -> None:
        """Back-propagate a worker's share of one batch's loss."""
        if share is None:
            return
        for part in (share,) if isinstance(share, Tensor) else share:
            self.losses[index] = part.detach()
            part.backward()
            for total, buffer in zip(self.totals, self.buffers, strict=True):
                total.add_(buffer)
                buffer.zero_()

    def sum_over_workers(
        self, reduce: Reduce, places: Sequence[str], mask: frozenset[str], *, divisor: int = 1
    ) -> None:
        """Reduce the totals into the buffers, then check them: ``places`` says in an error where a loss was taken."""
        reduce(self.totals)
        for total, buffer in zip(self.totals, self.buffers, strict=True):
            buffer.copy_(total.div_(divisor))
        if all(bool(torch.isfinite(buffer).all()) for buffer in self.buffers):
            return
        state = f"with {', '.join(sorted(mask))} masked" if mask else "of the intact model"
        for place, loss in zip(places, self.losses.tolist(), strict=True):
            if not isfinite(loss):
                raise FloatingPointError(f"the loss {state} is {loss} at {place}")
        broken = next(name for name, view in self.views.items() if not bool(torch.isfinite(view).all()))
        raise FloatingPointError(f"the gradient of '{broken}' {state} is not finite at {' or '.join(places)}")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode: running statistics, no dropout. Modes and buffers are restored."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, initial in buffers:
            setattr(module, name, buffer.copy_(initial))


@contextmanager
def _initial_parameters_kept(model: nn.Module) -> Iterator[None]:
    """Restore all parameters, bit for bit (θ ← θ_init)."""
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), initial, strict=True):
                parameter.copy_(value)


def _parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    available = dict(model.named_parameters())
    wanted = list(names)
    if unknown := [name for name in wanted if name not in available]:
        raise UserError(f"the model has no parameter '{unknown[0]}': take the names from prunable_weights(model)")
    if not wanted:
        raise UserError("there are no weights to score: give the names of prunable_weights(model)")
    return {name: available[name] for name in wanted}
