"""Choosing channels: the lowest scores go until the target's share of the weights is gone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.channels.couplings import Coupling
from altermoma_ray.pruning.masks import Masks, is_frozen
from altermoma_ray.pruning.targets import OutOfReach, Target


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How narrow a layer may become.

    >>> from altermoma_ray.pruning.channels import Slice
    >>> rows = torch.arange(64)[:, None]
    >>> coupling = Coupling(name="layer", slices=(Slice("layer.weight", 0, rows),))
    >>> Bounds(least=0.2, multiple=8).narrowest(coupling), Bounds(least=0.2).narrowest(coupling)
    (16, 13)

    Single layers may have bounds of their own, by patterns of their names as in a shell; the first match holds.

    >>> bounds = Bounds(multiple=8, multiple_of={"lay*": 10}, least_of={"layer": 1.0})
    >>> bounds.multiple_in("layer"), bounds.least_in("layer")
    (10, 1.0)

    Attributes:
        least: least share of channels kept of each coupling, in (0, 1].
        multiple: widths are multiples of this number; a layer of another width may stay whole.
        least_of: the least share of single couplings, by pattern; 1 leaves a layer whole.
        multiple_of: the multiple of single couplings, by pattern.
    """

    least: float = 0.1
    multiple: int = 1
    least_of: Mapping[str, float] = field(default_factory=dict)
    multiple_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for least in (self.least, *self.least_of.values()):
            if not 0 < least <= 1:
                raise UserError(f"the least share of channels must be above 0 and at most 1, but got {least}")
        for multiple in (self.multiple, *self.multiple_of.values()):
            if multiple < 1:
                raise UserError(f"widths must be multiples of a number >= 1, but got {multiple}")

    def least_in(self, name: str) -> float:
        """The least share of channels kept of a coupling."""
        return next((least for pattern, least in self.least_of.items() if fnmatchcase(name, pattern)), self.least)

    def multiple_in(self, name: str) -> int:
        """The number whose multiples the widths of a coupling are."""
        return next((one for pattern, one in self.multiple_of.items() if fnmatchcase(name, pattern)), self.multiple)

    def step(self, coupling: Coupling) -> int:
        """Widths of a coupling that loses channels or heads are multiples of this number."""
        multiple = self.multiple_in(coupling.name)
        # Heads of 16 channels are multiples of 8 whatever their number.
        return math.lcm(multiple // math.gcd(multiple, coupling.unit), coupling.multiple)

    def narrowest(self, coupling: Coupling) -> int:
        """The least width of a coupling."""
        step = self.step(coupling)
        least = self.least_in(coupling.name) * coupling.channels
        return min(coupling.channels, step * math.ceil(max(1.0, least) / step))

    def check(self, couplings: Sequence[Coupling]) -> None:
        """Check that every pattern is of some coupling.

        Raises:
            UserError: a pattern matches none; the message names the couplings most like it.
        """
        names = [coupling.name for coupling in couplings]
        for pattern in (*self.least_of, *self.multiple_of):
            if not any(fnmatchcase(name, pattern) for name in names):
                like = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
                raise UserError(
                    f"no layer whose channels can be removed has a name like '{pattern}'; there are {', '.join(like)}"
                    f"{' and others' if len(names) > len(like) else ''}"
                )


class _Space:
    """The channels of a model in the order of pruning, and the weights left at any point."""

    def __init__(
        self, scores: Mapping[str, Tensor], couplings: Sequence[Coupling], bounds: Bounds, earlier: Masks | None
    ) -> None:
        self.couplings, self.bounds = couplings, bounds
        self.shapes = {name: score.shape for name, score in scores.items()}
        self.scores = {coupling.name: _channel_scores(scores, coupling, earlier) for coupling in couplings}
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
    scores: Mapping[str, Tensor],
    couplings: Sequence[Coupling],
    target: Target,
    bounds: Bounds,
    earlier: Masks | None = None,
) -> dict[str, Tensor]:
    """Choose the channels to keep.

    A channel's score is the mean over the scores of all its weights. Channels of layers of different widths and kernels
    are thus compared by the worth of one weight.

    Args:
        scores: of every prunable weight, by name; a layer whose scores are all infinite is frozen and stays whole.
        couplings: of the model.
        target: the share of the weights to prune, of all or of each group.
        bounds: how narrow a layer may become.
        earlier: masks of whole channels, made with the same bounds; their pruned channels stay pruned, and the mean is
            over the remaining weights.

    Returns:
        By coupling name, [channels] bool: whether the channel stays.

    Raises:
        OutOfReach: the bounds, or layers whose channels all stay, do not allow the target's sparsity, and the target
            is not to be met within reach.
    """
    frozen = {name for name, score in scores.items() if is_frozen(score)}
    movable = [one for one in couplings if not any(part.tensor in frozen for part in one.slices)]
    space = _Space(scores, movable, bounds, earlier)
    whole = {one.name: torch.ones(one.channels, dtype=torch.bool) for one in couplings}
    names = [name for members in target.groups.values() for name in members]
    if target.ratios is None:
        others = dict.fromkeys((coupling.name for coupling in movable), 0)
        where = None if target.within_reach else "model"
        return whole | space.kept(_prune(space, movable, names, target.sparsity, others, where))
    owner = {name: group for group, members in target.groups.items() for name in members}
    pruned = {coupling.name: 0 for coupling in movable}
    # Inputs of a later group's layers go with an earlier group's channels: the weights left in a group depend on the
    # other groups a little. Three rounds settle the counts.
    for _ in range(3):
        for group, ratio in target.ratios.items():
            mine = [one for one in movable if owner.get(_first_weight(one, owner)) == group]
            where = None if target.within_reach else f"group {group}"
            pruned |= _prune(space, mine, target.groups[group], ratio, pruned, where)
    return whole | space.kept(pruned)


def _prune(
    space: _Space,
    couplings: Sequence[Coupling],
    names: Sequence[str],
    sparsity: float,
    others: Mapping[str, int],
    where: str | None,
) -> dict[str, int]:
    """Numbers of channels to prune of each coupling for a sparsity of the named weights, under one threshold.

    The sparsity is met as closely as whole channels allow, from above: at least so much is pruned. ``where`` names the
    weights in the error for a sparsity out of reach; with None all channels go that may.
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

    # Channels pruned in an earlier round score −∞ and come first: the search begins behind them, so that none returns.
    low, high = sum(score == -math.inf for score, _, _ in ranked), len(ranked)
    if left(high) > allowed:
        if where is None:
            return counts(high)
        raise OutOfReach(
            f"channels of the {where} can go up to a sparsity of {1 - left(high) / total:.3f}, but {sparsity:.3f} is "
            "asked for: ask for less, or lower the least share of channels that stays (--least-share, or a space's "
            "`bounds`)"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= allowed else (middle + 1, high)
    return counts(low)


def _channel_scores(scores: Mapping[str, Tensor], coupling: Coupling, earlier: Masks | None) -> Tensor:
    """[channels] float64 mean score over the remaining weights of each channel; −∞ for channels pruned before."""
    total, weights = torch.zeros(2, coupling.channels, dtype=torch.float64)
    for part in coupling.slices:
        if part.tensor not in scores:
            continue
        lines = scores[part.tensor].detach().double().cpu().movedim(part.dim, 0).flatten(1)
        stays = torch.ones_like(lines)
        if earlier is not None:
            stays = earlier[part.tensor].cpu().movedim(part.dim, 0).flatten(1).double()
        total += (lines * stays).sum(1)[part.entries].sum(1)
        weights += stays.sum(1)[part.entries].sum(1)
    # A pruned channel has no weight left; so has, without earlier masks, a coupling that owns no scored weight.
    none_left = 0.0 if earlier is None else -math.inf
    return torch.where(weights > 0, total / weights.clamp(min=1), none_left)


def _first_weight(coupling: Coupling, known: Mapping[str, str]) -> str:
    return next((part.tensor for part in coupling.slices if part.tensor in known), "")
