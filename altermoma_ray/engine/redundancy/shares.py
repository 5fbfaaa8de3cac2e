"""The places of DeCI and ReRI: by layer and by group, and the likeness of their ranks.

Notation: see :mod:`altermoma_ray.tracking.redundancy.records`; Φ̂ is DeCI, Φ̃ ReRI, and both are divided by their
group's sums (AlterMOMA Eqs. 11-13): every group's shares add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from altermoma_ray.pruning import Indicators, Weights, altereva, global_masks
from altermoma_ray.tracking.redundancy.records import GroupFigures, LayerFigures

RANK_BINS = 25
"""Bins of each axis of the rank densities."""

Ranks = NDArray[np.float64]


def shares(indicators: Indicators, groups: Mapping[str, Sequence[str]]) -> tuple[Weights, Weights]:
    """DeCI and ReRI of every weight, each over its group's sum; ReRI of several passes is their mean.

    >>> indicators = Indicators(
    ...     contribution={"w": torch.tensor([1.0, 3.0])}, redundancy={"camera": {"w": torch.tensor([1.0, 1.0])}}
    ... )
    >>> shares(indicators, {"lidar": ["w"]})
    ({'w': tensor([0.2500, 0.7500])}, {'w': tensor([0.5000, 0.5000])})
    """
    # AlterEva's score is α·Φ̂ − β·Φ̃: with one factor at 0 the other indicator is left, normalised by the same code as
    # in a trial. A second implementation here could drift from the scores which prune.
    deci = altereva(indicators, groups, alpha=1.0, beta=0.0)
    minus_reri = altereva(indicators, groups, alpha=0.0, beta=1.0)
    return deci, {name: -tensor for name, tensor in minus_reri.items()}


def layer_figures(indicators: Indicators, groups: Mapping[str, Sequence[str]]) -> list[LayerFigures]:
    """One entry for each layer, in the groups' order.

    Example:
        The fusion-redundant layers::

            [layer.name for layer in layer_figures(indicators, groups) if layer.redundant]
    """
    deci, reri = shares(indicators, groups)
    found = []
    for group, names in groups.items():
        weights = sum(deci[name].numel() for name in names)
        passes = _passes(indicators, names)
        sums = {masked: _sum(values, names) for masked, values in passes.items()}
        for name in names:
            found.append(
                LayerFigures(
                    name=name,
                    group=group,
                    weights=deci[name].numel(),
                    weight_share=deci[name].numel() / weights,
                    deci_share=_sum(deci, [name]),
                    reri_share=_sum(reri, [name]),
                    # Over the pass's own sum: two passes have losses, hence ReRI, of different sizes. 0 where a pass
                    # moved no gradient of the group at all.
                    reri_by_pass={
                        masked: _sum(values, [name]) / sums[masked] if sums[masked] else 0.0
                        for masked, values in passes.items()
                    },
                    spearman=_correlation(_ranks(deci[name]), _ranks(reri[name])),
                )
            )
    return found


def group_figures(
    indicators: Indicators, groups: Mapping[str, Sequence[str]], layers: Sequence[LayerFigures], sparsity: float
) -> list[GroupFigures]:
    """One entry for each group.

    Args:
        indicators: DeCI and ReRI.
        groups: weight names by group.
        layers: as :func:`layer_figures` gives them.
        sparsity: share of a group's weights counted as removed by the overlap.
    """
    deci, reri = shares(indicators, groups)
    found = []
    for group, names in groups.items():
        passes = _passes(indicators, names)
        by_deci, by_reri = _ranks(*(deci[name] for name in names)), _ranks(*(reri[name] for name in names))
        # The fusion is scored by both masking passes, a modality's own group by one alone.
        one, *others = [_ranks(*(values[name] for name in names)) for values in passes.values()]
        # floor=0: a trial spares the last weights of each layer, but here the order of the weights alone counts.
        kept = [global_masks({name: scores[name] for name in names}, sparsity, floor=0) for scores in (deci, reri)]
        # Two independent sets, each with a share p of all weights, have p² in common and 2p − p² together: a Jaccard
        # index of p / (2 − p).
        share = kept[0].kept() / by_deci.size
        own = [layer for layer in layers if layer.group == group]
        found.append(
            GroupFigures(
                name=group,
                weights=by_deci.size,
                deci=_sum(indicators.contribution, names),
                reri={masked: _sum(values, names) for masked, values in passes.items()},
                spearman=_correlation(by_deci, by_reri),
                pass_spearman=_correlation(one, others[0]) if others else None,
                overlap=jaccard(*(torch.cat([mask[name].flatten() for name in names]) for mask in kept)),
                overlap_by_chance=share / (2 - share),
                # Half the sum of differences, the total variation distance: each moved share counts once, not twice.
                shift=sum(abs(layer.reri_share - layer.deci_share) for layer in own) / 2,
                ranks=_density(by_reri, by_deci),
            )
        )
    return found


def jaccard(one: Tensor, other: Tensor) -> float:
    """Jaccard index of two sets, given as boolean vectors: the share of their union in both; 1 where both are empty.

    >>> jaccard(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    0.5
    """
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def _passes(indicators: Indicators, names: Sequence[str]) -> dict[str, Weights]:
    """ReRI by masked modality, of the passes which score these weights."""
    # The first name answers for all: a pass scores whole groups, all but the masked modality's.
    return {masked: weights for masked, weights in indicators.redundancy.items() if names[0] in weights}


def _sum(weights: Mapping[str, Tensor], names: Sequence[str]) -> float:
    # In float64: in float32, millions of small addends vanish beside their own sum.
    return sum(float(weights[name].sum(dtype=torch.float64)) for name in names)


def _ranks(*tensors: Tensor) -> Ranks:
    """Ranks from 1; equal values share their mean rank."""
    # Shared ranks, since whole layers may have ReRI 0: ranks by position would make an order out of nothing.
    ranks: Ranks = rankdata(torch.cat([tensor.flatten() for tensor in tensors]).cpu().numpy())
    return ranks


def _correlation(one: Ranks, other: Ranks) -> float | None:
    """Spearman's ρ from ranks; None where one side has no order."""
    # ρ is Pearson's correlation of the ranks. A constant side would divide by its deviation of 0.
    if one.size < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _density(rows: Ranks, columns: Ranks) -> list[list[float]]:
    """Two-dimensional histogram of ranks, 1 where they are spread evenly."""
    # Half a rank beyond both ends: every bin then covers the same number of ranks, the outer ones included.
    span = [0.5, rows.size + 0.5]
    counts, _, _ = np.histogram2d(rows, columns, bins=RANK_BINS, range=[span, span])
    density: list[list[float]] = np.round(counts * RANK_BINS**2 / rows.size, 4).tolist()
    return density
