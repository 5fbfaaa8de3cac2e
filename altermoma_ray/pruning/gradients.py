"""Gradients of a loss over batches and workers, taken from a model whose state stays untouched.

Workers: all hold the same model and are given as many batches as there are in all, of which each computes a share. The
shares of one training batch must sum to its mean loss, and the shares of all scoring batches to the sum of their
losses, whichever worker computes which share. Gradients are summed over the workers in float64, once per quantity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.model import check_model, check_trained

logger = logging.getLogger(__name__)

Weights = dict[str, Tensor]
"""Tensors keyed by parameter name."""

LossFunction = Callable[[Any, frozenset[str]], "Tensor | Iterable[Tensor] | None"]
"""``loss(batch, masked)``: this worker's share of a batch's mean loss under masked modalities; None for no share.

A share is one scalar, or several that are computed one after another (a generator over parts of the batch: each is
back-propagated before the next is asked for). The sum of all workers' shares is the batch's mean loss. A detector's
loss has discrete choices in it, so the last bit of a sum can turn one of them: where parts are the same samples on any
number of workers, indicators are the same too, since parts are summed in float64.
"""

Reduce = Callable[[list[Tensor]], None]
"""Replaces each tensor, in place, by its sum over the workers."""

NormMode = Literal["running", "batch"]
"""Statistics of batch normalisation while a model is scored: the running ones, or the batch's own."""


def single_worker(tensors: list[Tensor]) -> None:
    """The reduction of one worker: nothing to sum."""


def adam_steps(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    loss: LossFunction,
    mask: frozenset[str],
    batches: Iterable[Any],
    learning_rate: float,
    reduce: Reduce,
    *,
    phase: str = "reactivation",
) -> Iterator[int]:
    """Train with Adam (Kingma & Ba 2015), one step a batch; yields the number of steps done.

    Args:
        model: the network; its parameters move at every step.
        trained: the parameters to train, by name.
        loss: see :data:`LossFunction`.
        mask: the masked modalities.
        batches: one for each step.
        learning_rate: constant learning rate.
        reduce: see :data:`Reduce`.
        phase: name of the training in error messages.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; the message names ``phase`` and step.
    """
    optimizer = torch.optim.Adam(trained.values(), lr=learning_rate, foreach=True)
    gradients = GradientBuffer(model, trained, losses=1)
    for step, batch in enumerate(batches, start=1):
        gradients.clear()
        with gradients.collecting():
            gradients.add(loss(batch, mask))
            gradients.sum_over_workers(reduce, [f"{phase} step {step} (learning rate {learning_rate})"], mask)
            # Inside the context: on leaving, the parameters lose the gradients which Adam reads.
            optimizer.step()
        yield step


def mean_gradient(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loss: LossFunction,
    mask: frozenset[str],
    batches: Sequence[Any],
    reduce: Reduce,
    *,
    absolute: bool = False,
) -> Gradients:
    """Gradient of the mean loss over ``batches``, summed over the workers.

    With ``absolute`` the parts of the loss add up their gradients' magnitudes instead, so that opposite signs
    do not cancel. The result then depends on the parts, though not on the workers computing them.

    Args:
        model: the network; its state stays untouched.
        parameters: the parameters to differentiate by, by name.
        loss: see :data:`LossFunction`.
        mask: the masked modalities.
        batches: all batches; the loss computes this worker's share of each.
        reduce: see :data:`Reduce`.
        absolute: whether magnitudes are added up, as told above.

    Raises:
        UserError: there is no batch.
        FloatingPointError: a loss or a gradient is not finite; raised on all workers.
    """
    if len(batches) == 0:
        raise UserError("scoring needs at least one batch, but got none")
    gradients = GradientBuffer(model, parameters, losses=len(batches), absolute=absolute)
    with gradients.collecting():
        for index, batch in enumerate(batches):
            gradients.add(loss(batch, mask), index)
    # One reduction for all batches: the losses travel in the buffer, and the message finds the batch by its place.
    places = [f"scoring batch {number} of {len(batches)}" for number in range(1, len(batches) + 1)]
    gradients.sum_over_workers(reduce, places, mask, divisor=len(batches))
    return Gradients(gradients.views, gradients.unreached)


class Gradients(Weights):
    """Gradients by parameter name.

    Attributes:
        unreached: parameters without a path from any batch's loss on any worker, as in a part run under
            ``torch.no_grad()``. A gradient of zero differs: its parameter has a path, but no effect.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, -0.5)
    >>> gradients = Gradients({"weight": torch.tensor([[4.0, 0.0]])}, unreached=frozenset())
    >>> gradients.contributions({"weight": layer.weight}).get("weight").tolist()
    [[2.0, 0.0]]
    """

    def __init__(self, gradients: Mapping[str, Tensor], unreached: frozenset[str]) -> None:
        super().__init__(gradients)
        self.unreached = unreached

    def contributions(self, parameters: Mapping[str, nn.Parameter]) -> Weights:
        """``|θ · ∂L/∂θ|``; infinite, i.e. never pruned, for frozen parts: without a gradient nothing is known of them.

        One line is logged on frozen parts.

        Raises:
            UserError: all are frozen.
        """
        frozen = [name for name in parameters if name in self.unreached]
        # Every weight frozen points to a fault in the loss, a few to a frozen part of the model.
        if len(frozen) == len(parameters):
            raise UserError(
                f"the loss leads to none of the {len(frozen)} weights to score, '{frozen[0]}' the first: "
                "it is computed under torch.no_grad(), from a detached tensor, or of another model"
            )
        if frozen:
            count = sum(parameters[name].numel() for name in frozen)
            logger.warning(
                "%d layers with %d weights are frozen (no gradient leads to them) and are not pruned: %s%s",
                len(frozen),
                count,
                ", ".join(frozen[:3]),
                ", ..." if len(frozen) > 3 else "",
            )
        return {
            name: torch.full_like(parameter, torch.inf, requires_grad=False)
            if name in self.unreached
            else (parameter.detach() * self[name]).abs_()
            for name, parameter in parameters.items()
        }


class GradientBuffer:
    """Gradients side by side in one buffer: one call sums them over the workers.

    While collecting, each parameter's ``grad`` is a view of the buffer, into which autograd adds in place, and a
    parameter beyond the reach of a worker's loss has a gradient of zero there. The gradients of each part of the loss
    are added to a total in float64, where the order of summation is lost in rounding. The losses lie in the same
    buffer: all workers learn of a failure in the same reduction. Behind the losses lies one number a parameter, the
    count of workers whose gradients reached it.

    Args:
        model: the network; none of its other parameters collects a gradient meanwhile.
        parameters: the parameters to collect gradients of.
        losses: number of losses the buffer has room for, one a batch.
        absolute: whether parts add up magnitudes, as in :func:`mean_gradient`.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> buffer = GradientBuffer(layer, dict(layer.named_parameters()), losses=1)
    >>> with buffer.collecting():
    ...     buffer.add(layer(torch.tensor([2.0, 3.0])).sum())
    ...     buffer.sum_over_workers(single_worker, ["the batch"], frozenset())
    >>> buffer.views["weight"].tolist(), layer.weight.grad
    ([[2.0, 3.0]], None)
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], losses: int, *, absolute: bool = False
    ) -> None:
        self.parameters, self.absolute = parameters, absolute
        self.all_parameters = list(model.parameters())
        self.buffers: list[Tensor] = []  # one for each device and type, which is one in nearly every model
        self.totals: list[Tensor] = []
        self.views: Weights = {}
        self.kinds: list[list[str]] = []  # the names in each buffer
        self.reached: set[str] = set()
        self.unreached: frozenset[str] = frozenset()
        kinds: dict[tuple[torch.device, torch.dtype], list[str]] = {}
        for name, parameter in parameters.items():
            kinds.setdefault((parameter.device, parameter.dtype), []).append(name)
        for (device, dtype), names in kinds.items():
            sizes = [parameters[name].numel() for name in names]
            # Layout: gradients, losses, counts of workers. Each buffer has room for losses; the last buffer's are read.
            buffer = torch.zeros(sum(sizes) + losses + len(names), device=device, dtype=dtype)
            *pieces, self.losses, _ = buffer.split_with_sizes([*sizes, losses, len(names)])
            self.kinds.append(names)
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
        hooks: list[RemovableHandle] = []
        try:
            for parameter, _, _ in found:
                parameter.requires_grad_(False)
            for name, parameter in self.parameters.items():
                parameter.requires_grad_(True)
                # Autograd adds in place to a gradient already there, and replaces None: so the view comes first.
                parameter.grad = self.views[name]
                # A zero in the buffer does not tell a missing path from a vanishing gradient; only the hook does.
                hook = parameter.register_post_accumulate_grad_hook(partial(self._reach, name))  # type: ignore[no-untyped-call]
                hooks.append(hook)
            with torch.enable_grad():
                yield
        finally:
            # Also after an error in the loss: a left-over flag would freeze the user's model.
            for hook in hooks:
                hook.remove()
            for parameter, flag, gradient in found:
                parameter.requires_grad_(flag)
                parameter.grad = gradient

    def _reach(self, name: str, parameter: Tensor) -> None:
        self.reached.add(name)

    def add(self, share: Tensor | Iterable[Tensor] | None, index: int = 0) -> None:
        """Back-propagate a worker's share of one batch's loss."""
        if share is None:
            return
        for part in (share,) if isinstance(share, Tensor) else share:
            self.losses[index] = part.detach()
            # A part computed in a frozen region counts as a loss, and has no gradient to give.
            if part.requires_grad:
                part.backward()
            for total, buffer in zip(self.totals, self.buffers, strict=True):
                total.add_(buffer.abs_() if self.absolute else buffer)
                buffer.zero_()

    def sum_over_workers(
        self, reduce: Reduce, places: Sequence[str], mask: frozenset[str], *, divisor: int = 1
    ) -> None:
        """Reduce the totals into the buffers, then check them.

        Args:
            reduce: see :data:`Reduce`.
            places: where each loss was taken, for error messages.
            mask: the masked modalities, for error messages.
            divisor: number of batches to take the mean over.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; raised on all workers.
        """
        for total, names in zip(self.totals, self.kinds, strict=True):
            # Every worker fills in its own reach, with zeros too: a collective call needs equal shapes everywhere.
            total[-len(names) :] = torch.tensor([float(name in self.reached) for name in names])
        # No worker may raise before this line: the others would wait in the reduction for ever.
        reduce(self.totals)
        self.unreached = frozenset(
            name
            for total, names in zip(self.totals, self.kinds, strict=True)
            for name, workers in zip(names, total[-len(names) :].tolist(), strict=True)
            if workers == 0
        )
        for total, buffer in zip(self.totals, self.buffers, strict=True):
            buffer.copy_(total.div_(divisor))
        # One test on the reduced buffers: all workers see the same sums and decide alike.
        if all(bool(torch.isfinite(buffer).all()) for buffer in self.buffers):
            return
        state = f"with {', '.join(sorted(mask))} masked" if mask else "of the intact model"
        for place, loss in zip(places, self.losses.tolist(), strict=True):
            if not isfinite(loss):
                raise FloatingPointError(f"the loss {state} is {loss} at {place}")
        broken = next(name for name, view in self.views.items() if not bool(torch.isfinite(view).all()))
        raise FloatingPointError(f"the gradient of '{broken}' {state} is not finite at {' or '.join(places)}")


@contextmanager
def evaluation(model: nn.Module, norms: NormMode = "running") -> Iterator[None]:
    """Evaluation mode: no dropout, and normalisation as ``norms`` says. Modes and buffers are restored.

    With ``norms="batch"`` the statistics are those of one call of the model: results are then the same on any number of
    workers only if the parts that each call sees are.

    Raises:
        UserError: ``norms`` is unknown.
    """
    if norms not in get_args(NormMode):
        raise UserError(f"norms is one of {', '.join(get_args(NormMode))}, but got norms='{norms}'")
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        model.eval()
        if norms == "batch":
            for module in model.modules():
                if getattr(module, "running_mean", None) is not None:
                    # By the attribute, not the class: third-party norms share no base class with torch's.
                    module.training = True
        yield
    finally:
        # Not model.train(): parts frozen in evaluation mode must stay in evaluation mode.
        for module, training in modes:
            module.training = training
        for module, name, buffer, initial in buffers:
            # The very tensor found before, with its values: a module may have assigned another one meanwhile.
            setattr(module, name, buffer.copy_(initial))


@contextmanager
def initial_parameters_kept(model: nn.Module) -> Iterator[None]:
    """Restore all parameters, bit for bit (θ ← θ_init), and the gradients found on them, which are away meanwhile."""
    parameters = list(model.parameters())
    found = [(parameter.detach().clone(), parameter.grad) for parameter in parameters]
    try:
        for parameter in parameters:
            # Removed, not zeroed: training inside would add to gradients the user has yet to apply.
            parameter.grad = None
        yield
    finally:
        with torch.no_grad():
            for parameter, (value, gradient) in zip(parameters, found, strict=True):
                parameter.copy_(value)
                parameter.grad = gradient


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters with ``requires_grad``.

    Raises:
        UserError: there are none, or Adam cannot train one; see :mod:`altermoma_ray.pruning.model`.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    check_model(model)
    check_trained(model, trained)
    return trained


def parameters_named(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The named parameters.

    Raises:
        UserError: there are no names, one is unknown, or the model is unfit; see :mod:`altermoma_ray.pruning.model`.
    """
    check_model(model)
    available = dict(model.named_parameters())
    wanted = list(names)
    if unknown := [name for name in wanted if name not in available]:
        raise UserError(f"the model has no parameter '{unknown[0]}': take the names from prunable_weights(model)")
    if not wanted:
        raise UserError("there are no weights to score: give the names of prunable_weights(model)")
    return {name: available[name] for name in wanted}
