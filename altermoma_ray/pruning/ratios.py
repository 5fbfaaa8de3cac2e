"""Pruning ratios: their range, and how a total sparsity is shared between parameter groups.

Notation::

    n_g   weights in group g, N = Σ n_g        t     target, the pruned fraction of N
    p_g   preference for keeping group g       k_g   kept fraction = min(1, c · exp(p_g)), with Σ n_g k_g = (1 − t) N

A group with a fixed ratio has no preference: the group takes its part of t N, and the others make up the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, floor, isfinite
from types import MappingProxyType

from altermoma_ray.errors import UserError


def check_ratio(name: str, value: float) -> float:
    """Return a valid pruning ratio unchanged.

    Raises:
        UserError: the ratio is not in [0, 1).
    """
    if not 0 <= value < 1:
        raise UserError(f"a pruning ratio must be in [0, 1), but got {name}={value}: 0.9 prunes nine weights in ten")
    return value


def solve_ratios(
    sizes: Mapping[str, int],
    target: float,
    preference: Mapping[str, float],
    fixed: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Ratios by group whose total sparsity is the target, with kept shares in proportion to ``exp(preference)``.

    Equal preferences give every group the target. A group whose share would exceed 1 is kept whole and the others
    share the rest. Counts are whole numbers: ``round(ratio · n_g)`` over the groups sums to ``round(target · N)``.

    >>> solve_ratios({"camera": 800, "lidar": 100, "fusion": 100}, 0.8, {"lidar": 0.0, "fusion": 0.0}, {"camera": 0.9})
    {'camera': 0.9, 'lidar': 0.4, 'fusion': 0.4}

    Args:
        sizes: number of weights in each group.
        target: total sparsity.
        preference: any finite number for each group without a fixed ratio; only differences matter.
        fixed: ratios settled beforehand; they are returned unchanged.

    Returns:
        Ratios in [0, 1), at least one weight being kept in each group.

    Raises:
        UserError: the target or a fixed ratio is none, they cannot be met, or groups and preferences do not fit.
    """
    check_ratio("target", target)
    if fixed:
        return _beside(sizes, target, preference, fixed)
    if not sizes or sizes.keys() != preference.keys() or min(sizes.values()) < 1:
        raise UserError(f"sizes above 0 and preferences for the same groups are needed, but got {sizes}, {preference}")
    if not all(isfinite(value) for value in preference.values()):
        raise UserError(f"preferences must be finite, but got {dict(preference)}")
    total = sum(sizes.values())
    # In whole weights from here on: fractions would sum to the target only up to rounding.
    budget = total - round(target * total)
    if budget < len(sizes):
        raise UserError(
            f"a total sparsity of {target} cannot be met: it keeps {budget} of {total} weights, "
            f"but each of the {len(sizes)} groups must keep one"
        )
    return _shared(sizes, budget, preference)


def check_fixed(sizes: Mapping[str, int], target: float, fixed: Mapping[str, float]) -> None:
    """Find out whether the groups without fixed ratios can make up the rest of a total sparsity.

    Args:
        sizes: number of weights in each group.
        target: total sparsity.
        fixed: ratios by group.

    Raises:
        UserError: a group is unknown or emptied, no group is left, or the groups left cannot make up the rest.
    """
    for group, ratio in fixed.items():
        check_ratio(group, ratio)
        if group not in sizes:
            raise UserError(
                f"a ratio is fixed for {group!r}, but the groups are {', '.join(sizes)}; choose out of these"
            )
        # A ratio below 1 still empties a small group by rounding.
        if round(ratio * sizes[group]) == sizes[group]:
            raise UserError(f"a ratio of {group}={ratio:g} leaves none of its {sizes[group]} weights; lower it")
    rest, budget = _rest(sizes, target, fixed)
    fixed_ones = ", ".join(f"{group}={ratio:g}" for group, ratio in fixed.items())
    if not rest:
        raise UserError(f"ratios are fixed for all groups ({fixed_ones}), so that none can make up the total; free one")
    # More to keep than the free groups hold: the fixed ratios overshoot the target.
    if budget > sum(rest.values()):
        raise UserError(
            f"a total sparsity of {target} cannot be met with {fixed_ones}: these alone remove more; lower them"
        )
    # Each free group keeps at least one weight.
    if budget < len(rest):
        raise UserError(
            f"a total sparsity of {target} cannot be met with {fixed_ones}: {', '.join(rest)} cannot make up the rest; "
            f"raise {', '.join(fixed)} or lower the total sparsity"
        )


def _rest(sizes: Mapping[str, int], target: float, fixed: Mapping[str, float]) -> tuple[dict[str, int], int]:
    """The groups without a fixed ratio, and how many of their weights are kept."""
    rest = {group: size for group, size in sizes.items() if group not in fixed}
    kept = sum(sizes[group] - round(ratio * sizes[group]) for group, ratio in fixed.items())
    total = sum(sizes.values())
    return rest, total - round(target * total) - kept


def _beside(
    sizes: Mapping[str, int], target: float, preference: Mapping[str, float], fixed: Mapping[str, float]
) -> dict[str, float]:
    """Ratios of all groups, where some are fixed."""
    check_fixed(sizes, target, fixed)
    rest, budget = _rest(sizes, target, fixed)
    if rest.keys() != preference.keys() or not all(isfinite(value) for value in preference.values()):
        raise UserError(f"finite preferences are needed for {', '.join(rest)}, but got {dict(preference)}")
    shared = _shared(rest, budget, preference)
    return {group: fixed[group] if group in fixed else shared[group] for group in sizes}


def _shared(sizes: Mapping[str, int], budget: int, preference: Mapping[str, float]) -> dict[str, float]:
    """Ratios of groups for a given number of weights kept together."""
    kept = _whole(_kept_shares(sizes, budget, preference), sizes, budget)
    return {group: (size - kept[group]) / size for group, size in sizes.items()}


def _kept_shares(sizes: Mapping[str, int], budget: int, preference: Mapping[str, float]) -> dict[str, float]:
    """Kept weights by group, not yet whole numbers: groups at ratio 1 are filled, the others share the rest."""
    kept: dict[str, float] = {}
    free = dict(sizes)
    while free:
        rest = budget - sum(kept.values())
        top = max(preference[group] for group in free)  # keeps exp from overflowing, and the sum below above zero
        # k_g n_g without the factor c. Groups beyond 1 are settled, and c is found anew for the others.
        demand = {group: size * exp(preference[group] - top) for group, size in free.items()}
        scale = rest / sum(demand.values())
        full = [group for group, size in free.items() if scale * demand[group] >= size]
        # Ends: every turn without a return settles at least one group.
        if not full:
            return kept | {group: scale * value for group, value in demand.items()}
        for group in full:
            kept[group] = free.pop(group)
    return kept


def _whole(shares: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Whole counts between 1 and the group's size with the budget as their sum: largest remainders are rounded up."""
    # Rounded down first, within 1 and the size; these bounds can put the sum on either side of the budget.
    kept = {group: min(max(floor(shares[group]), 1), size) for group, size in sizes.items()}
    while (missing := budget - sum(kept.values())) != 0:
        step = 1 if missing > 0 else -1
        movable = [group for group in sizes if 1 <= kept[group] + step <= sizes[group]]
        # One weight at a time, to or from the group furthest from its share; among equals the first group.
        kept[max(movable, key=lambda group: step * (shares[group] - kept[group]))] += step
    return kept
