"""The distribution of a trial's scores, split into kept and pruned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from altermoma_ray.pruning import Masks, Weights
from altermoma_ray.tracking.result import Histogram


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
        # asinh(x / scale) is linear within the scale and logarithmic beyond, for both signs; a logarithm alone has no
        # place for 0 and negative scores (AlterMOMA's are differences). `clamp_min`: all scores of a group may be 0.
        scale = values.abs().mean(dtype=torch.float64).clamp_min(torch.finfo(values.dtype).tiny)
        squashed = (values / scale).float().asinh_()
        # The small addition keeps the edges apart where all scores are equal.
        low, high = float(squashed.min()), float(squashed.max()) + 1e-6
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        # Bins are equally wide: a number tells its own. Those of kept weights come behind those of pruned ones.
        numbers = squashed.sub_(low).mul_(bins / (high - low)).int().clamp_(max=bins - 1)
        counts = torch.bincount(numbers.add_(kept.int(), alpha=bins), minlength=2 * bins).tolist()
        found[group] = Histogram(edges=(torch.sinh(edges) * scale).tolist(), kept=counts[bins:], pruned=counts[:bins])
    return found
