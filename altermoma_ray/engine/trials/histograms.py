"""The distribution of a trial's scores, split into kept and pruned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

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
        values = torch.cat([scores[name].flatten() for name in names])
        kept = torch.cat([masks[name].flatten() for name in names])
        # Frozen layers have infinite scores: they were never up for pruning, and have no place on an axis.
        finite = values.isfinite()
        if not finite.all():
            values, kept = values[finite], kept[finite]
        if not len(values):
            continue
        # Counted by bfloat16, which has 65536 values: a second instead of many for 40 million weights, and three
        # significant digits are more than a picture shows.
        largest = torch.finfo(torch.bfloat16).max
        rounded = values.clamp(-largest, largest).bfloat16()
        patterns = rounded.view(torch.int16).int().sub_(_LOWEST).add_(kept.int(), alpha=_PATTERNS)
        counts = torch.bincount(patterns, minlength=2 * _PATTERNS).view(2, _PATTERNS)
        used = counts.sum(0) > 0
        points = torch.arange(_LOWEST, _LOWEST + _PATTERNS).short().view(torch.bfloat16).double()[used]
        # asinh(x / scale) is linear within the scale and logarithmic beyond, for both signs; a logarithm alone has no
        # place for 0 and negative scores (AlterMOMA's are differences). `clamp_min`: all scores of a group may be 0.
        scale = values.abs().mean(dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
        squashed = torch.asinh(points / scale)
        # The small addition keeps the edges apart where all scores are equal.
        edges = torch.linspace(float(squashed.min()), float(squashed.max()) + 1e-12, bins + 1, dtype=torch.float64)
        place = torch.bucketize(squashed, edges[1:-1], right=True)  # a point on an edge is in the bin above
        pruned, left = counts.new_zeros(2, bins).index_add_(1, place, counts[:, used]).tolist()
        found[group] = Histogram(edges=(torch.sinh(edges) * scale).tolist(), kept=left, pruned=pruned)
    return found
