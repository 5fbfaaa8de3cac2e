"""The distribution of a trial's scores, split into kept and pruned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from altermoma_ray.pruning import Masks, Weights
from altermoma_ray.tracking.result import Histogram

_PATTERNS, _LOWEST = 1 << 16, -(1 << 15)
"""Number of bit patterns of a bfloat16, and the lowest of them read as a whole number."""


def score_histograms(
    scores: Weights, masks: Masks, groups: Mapping[str, Sequence[str]], bins: int = 50
) -> dict[str, Histogram]:
    """Scores of each group on a symmetric logarithmic axis: they span many orders of magnitude and both signs.

    >>> scores, masks = {"w": torch.tensor([-1.0, 2.0])}, Masks({"w": torch.tensor([False, True])})
    >>> histogram = score_histograms(scores, masks, {"all": ["w"]}, bins=2)["all"]
    >>> histogram.kept, histogram.pruned
    ([0, 1], [1, 0])

    Args:
        scores: of every prunable weight.
        masks: the weights kept by the trial.
        groups: weight names by group.
        bins: number of bins, equally wide on the axis.

    Returns:
        By group; a group of frozen layers alone has no histogram.
    """
    found = {}
    for group, names in groups.items():
        values = torch.cat([scores[name].flatten() for name in names]).cpu()
        kept = torch.cat([masks[name].flatten() for name in names]).cpu()
        # Frozen layers have infinite scores: they were never up for pruning, and have no place on an axis.
        finite = values.isfinite()
        if not finite.all():
            values, kept = values[finite], kept[finite]
        if not len(values):
            continue
        # asinh(x / scale) is linear within the scale and logarithmic beyond, for both signs; a logarithm alone has no
        # place for 0 and negative scores (AlterMOMA's are differences). `clamp_min`: all scores of a group may be 0.
        scale = values.abs().mean(dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
        points, counts = _counted(values, kept, least=4 * bins)
        squashed = torch.asinh(points / scale)
        # The small addition keeps the edges apart where all scores are equal.
        edges = torch.linspace(float(squashed.min()), float(squashed.max()) + 1e-12, bins + 1, dtype=torch.float64)
        place = torch.bucketize(squashed, edges[1:-1], right=True)  # a point on an edge is in the bin above
        pruned, left = counts.new_zeros(2, bins).index_add_(1, place, counts).tolist()
        found[group] = Histogram(edges=(torch.sinh(edges) * scale).tolist(), kept=left, pruned=pruned)
    return found


def _counted(values: Tensor, kept: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Points on the axis, float64 [P], and the numbers of pruned and of kept weights at each of them, [2, P].

    Many float32 values are rounded to bfloat16, which has 65536 bit patterns to count: a second instead of many for 40
    million weights, and more digits than a picture shows. Where fewer than ``least`` patterns occur the values are so
    close to each other that each weight gets a point of its own.
    """
    if values.dtype == torch.float32 and len(values) > _PATTERNS:
        largest = torch.finfo(torch.bfloat16).max
        rounded = values.clamp(-largest, largest).bfloat16()
        patterns = rounded.view(torch.int16).int().sub_(_LOWEST).add_(kept.int(), alpha=_PATTERNS)
        counts = torch.bincount(patterns, minlength=2 * _PATTERNS).view(2, _PATTERNS)
        used = counts.sum(0) > 0
        if used.sum() >= least:
            points = torch.arange(_LOWEST, _LOWEST + _PATTERNS).short().view(torch.bfloat16).double()
            return points[used], counts[:, used]
    return values.double(), torch.stack([~kept, kept]).long()
