"""The target of a criterion: how much to prune, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.masks import Masks, global_masks, group_masks
from altermoma_ray.pruning.ratios import check_ratio
from altermoma_ray.pruning.schedules import Schedule


class OutOfReach(UserError):
    """A target beyond the reach of whole units: too much has to stay. One trial fails of it, not its search."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A sparsity, under one threshold for all weights or by a ratio for each parameter group.

    Attributes:
        groups: weight names by parameter group.
        sparsity: fraction of all weights to prune, in [0, 1).
        ratios: fraction to prune of each group, in [0, 1), which together make the sparsity (:func:`solve_ratios`
            finds suitable ones); None for one global threshold.
        within_reach: whether whole units that cannot meet the sparsity, or a group's ratio, go as far as they can; an
            :class:`OutOfReach` otherwise.

    Raises:
        UserError: the sparsity or a ratio is out of range, or ratios and groups do not fit.

    >>> import torch
    >>> groups = {"camera": ["camera.weight"], "lidar": ["lidar.weight"]}
    >>> target = Target(groups=groups, sparsity=0.5, ratios={"camera": 0.75, "lidar": 0.25})
    >>> masks = target.masks({name: torch.arange(4.0) for names in groups.values() for name in names})
    >>> masks.sparsity_by_group(groups)
    {'camera': 0.75, 'lidar': 0.25}
    """

    groups: Mapping[str, Sequence[str]]
    sparsity: float
    ratios: Mapping[str, float] | None = None
    within_reach: bool = False

    def __post_init__(self) -> None:
        check_ratio("sparsity", self.sparsity)
        if self.ratios is None:
            return
        if self.ratios.keys() != self.groups.keys():
            raise UserError(
                f"ratios are needed for the groups {sorted(self.groups)}, but got them for {sorted(self.ratios)}"
            )
        for group, ratio in self.ratios.items():
            check_ratio(group, ratio)

    def masks(self, scores: Mapping[str, Tensor]) -> Masks:
        """Prune the weights of lowest score; see :func:`global_masks` and :func:`group_masks`."""
        if self.ratios is None:
            return global_masks(scores, self.sparsity)
        return group_masks(scores, self.groups, self.ratios)

    def rounds(self, schedule: Schedule) -> list[Target]:
        """Targets of the schedule's rounds, of which the last is this one; each group's ratio rises by itself."""
        # The ratios of a round need not sum to its sparsity exactly; masks read the ratios where there are any.
        rounds = [replace(self, sparsity=sparsity) for sparsity in schedule.sparsities(self.sparsity)]
        if self.ratios is not None:
            rises = {group: schedule.sparsities(ratio) for group, ratio in self.ratios.items()}
            rounds = [
                replace(target, ratios={group: rise[index] for group, rise in rises.items()})
                for index, target in enumerate(rounds)
            ]
        # This very object ends the rise: no rounding between the target asked for and the last round.
        return [*rounds[:-1], self]
