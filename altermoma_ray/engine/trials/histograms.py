"""How the scores of a trial's weights are spread, and which of them it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from altermoma_ray.pruning import Masks, Weights
from altermoma_ray.tracking.result import Histogram


def score_histograms(
    scores: Weights, masks: Masks, groups: Mapping[str, Sequence[str]], bins: int = 50
) -> dict[str, Histogram]:
    """Scores of each group on a symmetric logarithmic axis: they span many orders of magnitude and both signs."""
    found = {}
    for group, names in groups.items():
        values = torch.cat([scores[name].flatten() for name in names]).double()
        kept = torch.cat([masks[name].flatten() for name in names])
        scale = values.abs().mean().clamp_min(torch.finfo(torch.float64).tiny)
        squashed = torch.asinh(values / scale)
        edges = torch.linspace(float(squashed.min()), float(squashed.max()) + 1e-12, bins + 1, dtype=torch.float64)
        counts = [torch.histogram(squashed[chosen], edges).hist.int().tolist() for chosen in (kept, ~kept)]
        found[group] = Histogram(edges=(torch.sinh(edges) * scale).tolist(), kept=counts[0], pruned=counts[1])
    return found
