"""Choosing channels: the lowest scores go until the target's share of the weights is gone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.channels.couplings import Coupling
from altermoma_ray.pruning.masks import is_frozen
from altermoma_ray.pruning.targets import OutOfReach, Target


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How narrow a layer may become.

    >>> from altermoma_ray.pruning.channels import Slice
    >>> rows = torch.arange(64)[:, None]
    >>> coupling = Coupling(name="layer", slices=(Slice("layer.weight", 0, rows),))
    >>> Bounds(least=0.2, multiple=8).narrowest(coupling), Bounds(least=0.2).narrowest(coupling)
    (16, 13)

    Attributes:
        least: least share of channels kept of each coupling, in (0, 1].
        multiple: widths are multiples of this number wherever the unpruned width is.
    """

    least: float = 0.1
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1 or self.multiple < 1:
            raise UserError(
                f"channel bounds need 0 < least <= 1 and multiple >= 1, but got {self.least}, {self.multiple}"
            )

    def step(self, coupling: Coupling) -> int:
        """Widths of a coupling are multiples of this number."""
        step = math.lcm(self.multiple, coupling.multiple)
        # An odd width, of ten classes for example, cannot keep to multiples of 8 and stay whole.
        return step if coupling.channels % step == 0 else coupling.multiple

    def narrowest(self, coupling: Coupling) -> int:
        """The least width of a coupling."""
        step = self.step(coupling)
        return min(coupling.channels, step * math.ceil(max(1.0, self.least * coupling.channels) / step))


class _Space:
    """The channels of a model in the order of pruning, and the weights left at any point."""

    def __init__(self, scores: Mapping[str, Tensor], couplings: Sequence[Coupling], bounds: Bounds) -> None:
        self.couplings, self.bounds = couplings, bounds
        self.shapes = {name: score.shape for name, score in scores.items()}
        self.scores = {coupling.name: _channel_scores(scores, coupling) for coupling in couplings}
        self.order = {name: score.argsort(stable=True) for name, score in self.scores.items()}

    def kept(self, pruned: Mapping[str, int]) -> dict[str, Tensor]:
        """By coupling, which channels stay when so many of the lowest are to go; widths are rounded up."""
        kept: dict[str, Tensor] = {}
        for coupling in self.couplings:
            width = self.width(coupling, pruned[coupling.name])
            stays = torch.ones(coupling.channels, dtype=torch.bool)
            stays[self.order[coupling.name][: coupling.channels - width]] = False
            kept[coupling.name] = stays
        return kept

    def width(self, coupling: Coupling, pruned: int) -> int:
        """Channels kept of a coupling, for a number of channels to prune."""
        step = self.bounds.step(coupling)
        wanted = max(coupling.channels - pruned, self.bounds.narrowest(coupling))
        return min(coupling.channels, step * math.ceil(wanted / step))

    def left(self, widths: Mapping[str, int], names: Sequence[str]) -> int:
        """Weights left of the named tensors."""
        lost: dict[tuple[str, int], int] = {}
        for coupling in self.couplings:
            gone = coupling.channels - widths[coupling.name]
            for part in coupling.slices:
                place = (part.tensor, part.dim)
                lost[place] = lost.get(place, 0) + gone * part.entries.shape[1]
        return sum(
            math.prod(size - lost.get((name, dim), 0) for dim, size in enumerate(self.shapes[name])) for name in names
        )


def choose(
    scores: Mapping[str, Tensor], couplings: Sequence[Coupling], target: Target, bounds: Bounds
) -> dict[str, Tensor]:
    """Choose the channels to keep.

    A channel's score is the mean over the scores of all its weights. Channels of layers of different widths and kernels
    are thus compared by the worth of one weight.

    Args:
        scores: of every prunable weight, by name; a layer whose scores are all infinite is frozen and stays whole.
        couplings: of the model.
        target: the share of the weights to prune, of all or of each group.
        bounds: how narrow a layer may become.

    Returns:
        By coupling name, [channels] bool: whether the channel stays.

    Raises:
        OutOfReach: the bounds, or layers whose channels all stay, do not allow the target's sparsity.
    """
    frozen = {name for name, score in scores.items() if is_frozen(score)}
    movable = [one for one in couplings if not any(part.tensor in frozen for part in one.slices)]
    space = _Space(scores, movable, bounds)
    whole = {one.name: torch.ones(one.channels, dtype=torch.bool) for one in couplings}
    names = [name for members in target.groups.values() for name in members]
    if target.ratios is None:
        others = dict.fromkeys((coupling.name for coupling in movable), 0)
        return whole | space.kept(_prune(space, movable, names, target.sparsity, others, "model"))
    owner = {name: group for group, members in target.groups.items() for name in members}
    pruned = {coupling.name: 0 for coupling in movable}
    # Inputs of a later group's layers go with an earlier group's channels: the weights left in a group depend on the
    # other groups a little. Three rounds settle the counts.
    for _ in range(3):
        for group, ratio in target.ratios.items():
            mine = [one for one in movable if owner.get(_first_weight(one, owner)) == group]
            pruned |= _prune(space, mine, target.groups[group], ratio, pruned, f"group {group}")
    return whole | space.kept(pruned)


def _prune(
    space: _Space,
    couplings: Sequence[Coupling],
    names: Sequence[str],
    sparsity: float,
    others: Mapping[str, int],
    where: str,
) -> dict[str, int]:
    """Numbers of channels to prune of each coupling for a sparsity of the named weights, under one threshold.

    The sparsity is met as closely as whole channels allow, from above: at least so much is pruned.
    """
    ranked = sorted(
        (float(score), number, coupling.name)
        for coupling in couplings
        for number, score in enumerate(space.scores[coupling.name].sort(stable=True).values)
    )
    total = sum(math.prod(space.shapes[name]) for name in names)
    allowed = total - round(sparsity * total)

    def counts(length: int) -> dict[str, int]:
        found = dict(others) | {coupling.name: 0 for coupling in couplings}
        for _, _, name in ranked[:length]:
            found[name] += 1
        return found

    def left(length: int) -> int:
        found = counts(length)
        return space.left({one.name: space.width(one, found[one.name]) for one in space.couplings}, names)

    low, high = 0, len(ranked)
    if left(high) > allowed:
        raise OutOfReach(
            f"channels of the {where} can go up to a sparsity of {1 - left(high) / total:.3f}, but {sparsity:.3f} is "
            "asked for: ask for less, or lower the least share of channels that stays"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= allowed else (middle + 1, high)
    return counts(low)


def _channel_scores(scores: Mapping[str, Tensor], coupling: Coupling) -> Tensor:
    """[channels] float64 mean score over the weights of each channel."""
    total = torch.zeros(coupling.channels, dtype=torch.float64)
    weights = 0
    for part in coupling.slices:
        if part.tensor not in scores:
            continue
        lines = scores[part.tensor].detach().double().cpu().movedim(part.dim, 0).flatten(1)
        total += lines.sum(1)[part.entries].sum(1)
        weights += lines.shape[1] * part.entries.shape[1]
    return total / max(weights, 1)


def _first_weight(coupling: Coupling, known: Mapping[str, str]) -> str:
    return next((part.tensor for part in coupling.slices if part.tensor in known), "")
