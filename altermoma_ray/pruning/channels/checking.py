"""Whether couplings are right: a model without some channels must compute the same as one where they are masked."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.channels.couplings import Coupling, keep_masks, kept_entries
from altermoma_ray.pruning.channels.cutting import cut
from altermoma_ray.pruning.channels.tracing import Run

TOLERANCE = 1e-3
"""Largest difference allowed, as a fraction of the largest output."""


def check_couplings(model: nn.Module, couplings: Sequence[Coupling], run: Run) -> None:
    """Remove half of the channels by chance, and hold the outputs against the masked model's.

    Tracing follows the autograd graph. An unknown operation is taken to leave channels in their places. A wrong guess
    seldom fails: the wrong channels are cut without a word.

    Args:
        model: in evaluation mode; stays unchanged.
        couplings: of the model.
        run: runs a model on some input.

    Raises:
        UserError: the smaller model fails or computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    kept = {}
    for coupling in couplings:
        order = torch.rand(coupling.channels, generator=generator).argsort()
        kept[coupling.name] = torch.zeros(coupling.channels, dtype=torch.bool)
        kept[coupling.name][order[: max(1, coupling.channels // 2)]] = True
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    masked = copy.deepcopy(model)
    remedy = "give the model a method channel_couplings(), or take granularity 'weight'"
    with torch.no_grad():
        masks = keep_masks({name: shapes[name] for name, _ in model.named_parameters()}, couplings, kept)
        for name, parameter in masked.named_parameters():
            parameter.mul_(masks[name])
        expected = list(_tensors(run(masked)))
        try:
            found = list(_tensors(run(cut(model, kept_entries(shapes, couplings, kept)))))
        except Exception as error:
            raise UserError(
                f"{type(model).__name__} fails once channels are removed ({type(error).__name__}: {error}); {remedy}"
            ) from error
    for wanted, got in zip(expected, found, strict=True):
        scale = float(wanted.abs().max()) if wanted.numel() else 0.0
        if wanted.shape != got.shape or float((wanted - got).abs().max() if scale else 0.0) > TOLERANCE * scale:
            raise UserError(
                f"{type(model).__name__} without some channels computes something else than with the same channels "
                f"masked: tracing misread an operation between its layers; {remedy}"
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors of a model's output, however they are nested."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
