"""Couplings: the entries of parameters and buffers of one channel, which can only go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from altermoma_ray.pruning.masks import Masks


@dataclass(frozen=True)
class Slice:
    """The entries of one tensor, along one dimension, owned by the channels of a coupling.

    Attributes:
        tensor: name of a parameter or buffer of the model.
        dim: dimension along which the tensor is cut.
        entries: [channels, k] int64; row c holds the k positions of channel c along ``dim``.
    """

    tensor: str
    dim: int
    entries: Tensor


@dataclass(frozen=True)
class Coupling:
    """Channels of a model, each with all its entries in all tensors.

    >>> rows = torch.arange(4)[:, None]
    >>> coupling = Coupling(
    ...     name="first",
    ...     slices=(Slice("first.weight", 0, rows), Slice("first.bias", 0, rows), Slice("second.weight", 1, rows)),
    ... )
    >>> coupling.channels
    4

    Attributes:
        name: of the layer whose output channels these are.
        slices: everywhere the channels have entries.
        multiple: the number of channels kept is a multiple of this number, as some kernels need; 1 allows any.
        unit: width that each channel of the coupling has in a layer's output: 1, or the width of a head of attention.
    """

    name: str
    slices: tuple[Slice, ...]
    multiple: int = 1
    unit: int = 1

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.slices[0].entries)

    def joined(self, *more: Slice) -> Coupling:
        """The coupling with further slices, for connections invisible to tracing."""
        return replace(self, slices=(*self.slices, *more))

    def limited_to(self, channels: Tensor) -> Coupling:
        """The coupling of some of its channels; the others can then no longer be pruned.

        Args:
            channels: [n] positions.
        """
        return replace(self, slices=tuple(replace(part, entries=part.entries[channels]) for part in self.slices))


def keep_masks(
    shapes: Mapping[str, torch.Size], couplings: Iterable[Coupling], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks of tensors in which every pruned channel's entries are False, wherever they lie.

    Args:
        shapes: of the tensors wanted, by name.
        couplings: of the model.
        kept: by coupling name, [channels] bool: whether the channel stays.

    Returns:
        Bool tensors of the given shapes.
    """
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for coupling in couplings:
        gone = ~kept[coupling.name]
        for part in coupling.slices:
            if part.tensor in masks and bool(gone.any()):
                masks[part.tensor].index_fill_(part.dim, part.entries[gone].flatten(), False)
    return masks


def kept_channels(couplings: Sequence[Coupling], masks: Masks) -> dict[str, Tensor]:
    """The channels kept by masks of whole channels: the inverse of :func:`keep_masks`.

    A channel is pruned where nothing of its first slice's weight is kept. A kept channel keeps something of every
    slice, because every coupling keeps at least one channel.

    Args:
        couplings: of the model.
        masks: of prunable weights, made of whole channels.

    Returns:
        By coupling name, [channels] bool.
    """
    kept: dict[str, Tensor] = {}
    for coupling in couplings:
        part = next(part for part in coupling.slices if part.tensor in masks)
        lines = masks[part.tensor].cpu().movedim(part.dim, 0).flatten(1).any(1)
        kept[coupling.name] = lines[part.entries].all(1)
    return kept


def kept_entries(
    shapes: Mapping[str, torch.Size], couplings: Iterable[Coupling], kept: Mapping[str, Tensor]
) -> dict[str, dict[int, list[int]]]:
    """The positions kept, for every tensor and dimension with losses: a plan for JSON.

    Args:
        shapes: of the model's parameters and buffers.
        couplings: of the model.
        kept: by coupling name, [channels] bool: whether the channel stays.
    """
    stays: dict[tuple[str, int], Tensor] = {}
    for coupling in couplings:
        gone = ~kept[coupling.name]
        if not bool(gone.any()):
            continue
        for part in coupling.slices:
            place = (part.tensor, part.dim)
            line = stays.setdefault(place, torch.ones(shapes[part.tensor][part.dim], dtype=torch.bool))
            line[part.entries[gone].flatten()] = False
    plan: dict[str, dict[int, list[int]]] = {}
    for (tensor, dim), line in stays.items():
        plan.setdefault(tensor, {})[dim] = line.nonzero()[:, 0].tolist()
    return plan


def composed(
    first: Mapping[str, Mapping[int, Sequence[int]]], second: Mapping[str, Mapping[int, Sequence[int]]]
) -> dict[str, dict[int, list[int]]]:
    """The positions kept by two prunings, one after the other.

    >>> composed({"weight": {0: [1, 3, 4]}}, {"weight": {0: [0, 2], 1: [5]}})
    {'weight': {0: [1, 4], 1: [5]}}

    Args:
        first: by tensor and dimension, as :func:`kept_entries` gives them; numbers of dimensions may be texts, as in
            JSON.
        second: of the smaller tensors.
    """
    found = {name: {int(dim): list(kept) for dim, kept in dims.items()} for name, dims in first.items()}
    for name, dims in second.items():
        of = found.setdefault(name, {})
        for dim, kept in dims.items():
            of[dim] = [of[dim][position] for position in kept] if dim in of else list(kept)
    return found
