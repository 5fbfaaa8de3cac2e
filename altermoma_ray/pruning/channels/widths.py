"""The shapes of a model's tensors once channels are removed, without cutting the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from altermoma_ray.pruning.channels.couplings import Coupling


def kept_shapes(
    shapes: Mapping[str, torch.Size], couplings: Iterable[Coupling], kept: Mapping[str, Tensor]
) -> dict[str, torch.Size]:
    """The shape of every tensor without the pruned channels, as :func:`altermoma_ray.pruning.channels.cut` leaves it.

    >>> from altermoma_ray.pruning.channels import Slice
    >>> rows = torch.arange(4)[:, None]
    >>> coupling = Coupling("first", (Slice("first.weight", 0, rows), Slice("second.weight", 1, rows)))
    >>> shapes = {"first.weight": torch.Size([4, 3]), "second.weight": torch.Size([2, 4])}
    >>> kept_shapes(shapes, [coupling], {"first": torch.tensor([True, False, True, False])})
    {'first.weight': torch.Size([2, 3]), 'second.weight': torch.Size([2, 2])}

    Args:
        shapes: of the unpruned model's parameters and buffers.
        couplings: of the model.
        kept: by coupling name, [channels] bool: whether the channel stays.
    """
    sizes = {name: list(shape) for name, shape in shapes.items()}
    for coupling in couplings:
        gone = int((~kept[coupling.name]).sum())
        for part in coupling.slices:
            # Couplings share no entry: the losses of one dimension add up.
            sizes[part.tensor][part.dim] -= gone * part.entries.shape[1]
    return {name: torch.Size(size) for name, size in sizes.items()}


def kept_shares(couplings: Iterable[Coupling], shares: Mapping[str, float]) -> dict[str, Tensor]:
    """The first channels of every coupling, up to a share of them: for measurements, where only widths matter.

    Args:
        couplings: of a model.
        shares: by coupling name, the share of channels to keep, in (0, 1]; rounded up to a width allowed, at least one
            channel.

    Returns:
        By coupling name, [channels] bool: whether the channel stays.
    """
    kept = {}
    for coupling in couplings:
        steps = max(1, round(shares[coupling.name] * coupling.channels / coupling.multiple))
        kept[coupling.name] = torch.arange(coupling.channels) < steps * coupling.multiple
    return kept
