"""Budgets of latency and MACs: the costs of a trial's masks, predicted, and the least pruning that keeps a budget.

Notation::

    s      the setting's sparsity        s_g    its ratio of group g
    q      the share of weights kept, wanted = (1 − s)^t; each group then keeps (1 − s_g)^t

With t = 1 the targets are the setting's own, with t → 0 nothing is pruned, and a group that the setting keeps whole
stays whole. Costs fall as t rises, and the least t that keeps the budget is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from altermoma_ray.engine.scoring.costs import load_costs
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import LATENCY, MACS
from altermoma_ray.models.costs import CostTable
from altermoma_ray.pruning import Masks
from altermoma_ray.pruning.channels import Bounds, kept_shapes
from altermoma_ray.pruning.channels.couplings import kept_channels
from altermoma_ray.pruning.granularity import Channel, Granularity
from altermoma_ray.pruning.targets import OutOfReach, Target

_HALVINGS = 12
"""Steps of the bisection: the share of weights kept is then known to 1/4096."""
_LEAST_KEPT = 1e-3
"""Smallest share of weights tried; bounds of widths keep far more."""


class Budget(BaseModel):
    """The most that a model may cost.

    >>> budget = Budget(max_latency_ms=60.0)
    >>> budget.missed({"latency": 64.2, "macs": 7e9})
    'latency 64.2 ms, but at most 60 ms'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_latency_ms: float | None = Field(default=None, gt=0)
    """Milliseconds from a sample to decoded outputs, predicted by a cost table."""
    max_macs: int | None = Field(default=None, gt=0)
    """Multiply-accumulate operations of one sample."""
    is_beside_sparsity: bool = False
    """Whether a setting's sparsity is a least one; otherwise the budget alone says how much is pruned."""

    def missed(self, costs: Mapping[str, float]) -> str | None:
        """The first cost above its limit, in words; None for a kept budget.

        Args:
            costs: ``latency`` and ``macs``.
        """
        if self.max_latency_ms is not None and costs[LATENCY.name] > self.max_latency_ms:
            return f"latency {costs[LATENCY.name]:.1f} ms, but at most {self.max_latency_ms:g} ms"
        if self.max_macs is not None and costs[MACS.name] > self.max_macs:
            return f"{costs[MACS.name]:,.0f} MACs, but at most {self.max_macs:,}"
        return None

    def __bool__(self) -> bool:
        return self.max_latency_ms is not None or self.max_macs is not None


def costs_of(costs: str | None, units: Granularity, masks: Masks) -> dict[str, float]:
    """The predicted costs of a model with these masks, once its channels are removed.

    Args:
        costs: file of the model's cost table; None gives no costs.
        units: the granularity that made the masks, bound to the model.
        masks: of whole channels.
    """
    if costs is None:
        return {}
    channels = removed_by(units)
    return _costs(load_costs(costs), channels, kept_channels(channels.couplings, masks))


def within_budget(
    target: Target, budget: Budget, costs: str | None, units: Granularity, scores: Mapping[str, Tensor]
) -> Target:
    """The target with the least pruning whose masks keep a budget; the target itself without a budget.

    Args:
        target: of a setting.
        budget: see :class:`Budget`.
        costs: file of the model's cost table.
        units: the granularity, bound to the model.
        scores: of all prunable weights.

    Raises:
        OutOfReach: no mask of these scores keeps the budget.
    """
    if not budget:
        return target
    assert costs is not None
    check_reach(load_costs(costs), removed_by(units), budget)
    return least_pruned(
        target, budget, lambda tried: budget.missed(costs_of(costs, units, units.select(scores, tried)))
    )


def removed_by(units: Granularity) -> Channel:
    """The granularity, if it removes channels.

    Raises:
        UserError: the granularity leaves a model's layers as wide as they were.
    """
    if not isinstance(units, Channel):
        raise UserError(
            f"granularity {type(units).__name__.lower()!r} leaves every layer as wide as it was, which saves neither "
            "time nor MACs; take granularity 'channel' (--granularity, or --space search_spaces/nusc_structured.py)"
        )
    return units


def check_reach(table: CostTable, channels: Channel, budget: Budget) -> None:
    """Find out whether the narrowest model that the bounds allow keeps a budget.

    Raises:
        OutOfReach: no mask meets the budget.
    """
    bounds: Bounds = channels.bounds
    narrowest = {one.name: torch.arange(one.channels) < bounds.narrowest(one) for one in channels.couplings}
    missed = budget.missed(_costs(table, channels, narrowest))
    if missed:
        raise OutOfReach(
            f"no mask meets the budget: the narrowest model has {missed}; raise the budget, or lower the least share "
            "of channels that stays (--least-share, or a space's `bounds`)"
        )


def least_pruned(target: Target, budget: Budget, missed: Callable[[Target], str | None]) -> Target:
    """The target with the least pruning whose masks keep a budget.

    Args:
        target: of a setting.
        budget: tells whether the target's own sparsity is a least one.
        missed: how the masks of a target miss the budget, in words; None where the budget is kept. Raises
            :class:`OutOfReach` for more pruning than whole units allow.

    Raises:
        OutOfReach: no target keeps the budget.
    """
    most = 1 - target.sparsity if budget.is_beside_sparsity else 1.0
    first = along(target, most)
    reason = missed(first)
    if reason is None:
        return first
    low, high, found = _LEAST_KEPT, most, None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # A group at its bounds goes no further; the others still do.
        tried = replace(along(target, middle), within_reach=True)
        try:
            short = missed(tried)
        except OutOfReach:
            low = middle
            continue
        if short is None:
            low, found = middle, tried
        else:
            high, reason = middle, short
    if found is None:
        raise OutOfReach(f"the budget is out of reach of these scores and ratios: {reason}; raise the budget")
    return found


def along(target: Target, kept: float) -> Target:
    """The target at another share of weights kept, on the line from no pruning through the target itself.

    >>> target = Target(groups={"a": [], "b": []}, sparsity=0.5, ratios={"a": 0.75, "b": 0.0})
    >>> along(target, 0.25).ratios, along(target, 1.0).ratios
    ({'a': 0.9375, 'b': 0.0}, {'a': 0.0, 'b': 0.0})

    Args:
        target: of a setting.
        kept: q, in (0, 1].
    """
    if target.ratios is None or target.sparsity == 0:
        ratios = None if target.ratios is None else dict.fromkeys(target.ratios, 1 - kept)
        return replace(target, sparsity=1 - kept, ratios=ratios)
    power = math.log(kept) / math.log(1 - target.sparsity)
    ratios = {group: 1 - (1 - ratio) ** power for group, ratio in target.ratios.items()}
    return replace(target, sparsity=1 - kept, ratios=ratios)


def _costs(table: CostTable, channels: Channel, kept: Mapping[str, Tensor]) -> dict[str, float]:
    shapes = kept_shapes(channels.shapes, channels.couplings, kept)
    latency = {} if table.measured_ms is None else {LATENCY.name: table.latency_ms(shapes)}
    return {**latency, MACS.name: float(table.macs(shapes))}
