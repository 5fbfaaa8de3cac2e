"""AlterMOMA on the part of ReRI that DeCI does not explain: a criterion of our own beside the published one.

Both indicators are large where |θ| and the loss's curvature are, so they rank much the same weights, and α Φ̂ − β Φ̃
removes the largest contributors as soon as β is large. The sign of redundancy is whether a weight's ReRI is
larger than its DeCI lets one expect::

    φ̂ = log(Φ̂/ΣΦ̂)       φ̃ = log of the mean over the masking passes of Φ̃/ΣΦ̃        in each group
    φ̃ ≈ a + b φ̂          least squares over the group's weights
    S  = φ̂ − β (φ̃ − a − b φ̂)

β = 0 ranks as DeCI does. α plays no part: only β/α would matter. A weight whose DeCI is zero is pruned first; one whose
ReRI is zero has no residual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from altermoma_ray.pruning.altereva import passes_of, without_frozen
from altermoma_ray.pruning.criteria.altermoma import AlterMOMA
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.groups import check_groups
from altermoma_ray.pruning.indicators import Indicators

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class ResidualAlterMOMA(AlterMOMA):
    """DeCI on a logarithmic axis, less β times the residual of ReRI.

    >>> indicators = Indicators(
    ...     contribution={"camera.weight": torch.tensor([1.0, 2.0, 4.0])},
    ...     redundancy={"lidar": {"camera.weight": torch.tensor([1.0, 8.0, 4.0])}},
    ... )
    >>> scores = ResidualAlterMOMA(beta=1.0).combine(indicators, {"camera": ["camera.weight"]})["camera.weight"]
    >>> scores.argsort().tolist()  # the second weight is far more redundant than its contribution suggests
    [1, 0, 2]
    """

    def combine(self, indicators: Indicators, groups: Mapping[str, Sequence[str]]) -> Weights:
        """Scores of known indicators, in the shapes and types of the contributions."""
        check_groups(groups, indicators.contribution)
        scores, scored = without_frozen(indicators, groups)
        for group, names in scored.items():
            contribution = _shares(indicators.contribution, names)
            # Clamped: a contribution of zero gets the lowest finite score, since masks refuse −∞.
            score = contribution.clamp_min(_TINY).log()
            if self.beta != 0:
                passes = passes_of(indicators, group, names)
                # The mean over passes as in AlterEva, where β is shared equally between them.
                redundancy = torch.stack([_shares(weights, names) for weights in passes]).mean(dim=0)
                score = score - self.beta * _residual(contribution, redundancy)
            sizes = [indicators.contribution[name].numel() for name in names]
            for name, part in zip(names, score.split_with_sizes(sizes), strict=True):
                like = indicators.contribution[name]
                scores[name] = part.view_as(like).to(like.dtype)
        return {name: scores[name] for name in indicators.contribution}


def _shares(weights: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    flat = torch.cat([weights[name].flatten() for name in names]).double()
    return flat / flat.sum().clamp_min(_TINY)


def _residual(contribution: Tensor, redundancy: Tensor) -> Tensor:
    """The rest of log ReRI after a line in log DeCI; zero where one of them is zero."""
    # The logarithm of zero would draw the fitted line to −∞.
    known = (contribution > 0) & (redundancy > 0)
    residual = torch.zeros_like(contribution)
    if int(known.sum()) < 2:
        return residual
    x, y = contribution[known].log(), redundancy[known].log()
    centred = x - x.mean()
    # Clamped: equal contributions leave no slope, and a residual of ReRI alone.
    slope = (centred * y).sum() / centred.square().sum().clamp_min(_TINY)
    residual[known] = y - y.mean() - slope * centred
    return residual
