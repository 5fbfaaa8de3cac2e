"""AlterEva: the score of every weight from its indicators (AlterMOMA Eqs. 11-13, 36).

Notation::

    Φ̂   DeCI, of the intact model               ΣΦ   sum over all weights of a group
    Φ̃   ReRI, with another modality masked      α, β   weights of contribution and redundancy

    S(camera) = α Φ̂/ΣΦ̂ − β Φ̃(lidar masked)/ΣΦ̃                                                    Eq. 11
    S(lidar)  = α Φ̂/ΣΦ̂ − β Φ̃(camera masked)/ΣΦ̃                                                   Eq. 12
    S(fusion) = α Φ̂/ΣΦ̂ − β/2 Φ̃(lidar masked)/ΣΦ̃ − β/2 Φ̃(camera masked)/ΣΦ̃                       Eqs. 13, 36

One rule covers the three: β is shared equally by the passes with another group masked. The rule therefore also holds
for other modalities, a radar for example, and for more than two.

Group or layer: with ``normalisation="layer"`` Σ runs over one layer's weights instead of a group's. The paper
has no such option; a layer of large gradients can then not decide for its whole group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.groups import check_groups
from altermoma_ray.pruning.indicators import Indicators
from altermoma_ray.pruning.masks import is_frozen

Normalisation = Literal["group", "layer"]
"""The range of the sum Σ: a parameter group, as in the paper, or a single layer."""


def altereva(
    indicators: Indicators,
    groups: Mapping[str, Sequence[str]],
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    normalisation: Normalisation = "group",
) -> Weights:
    """Scores of all weights; the lowest are pruned first.

    Sums and differences are taken in float64. An indicator that is zero on a whole group, or layer, adds nothing there.
    A frozen layer, one of infinite contribution, keeps infinity as its score and takes part in no sum.

    Zero is not the lowest score. A weight with a gradient path but no gradient (one behind nothing but padding, for
    example) has DeCI = ReRI = 0 and scores 0: above every weight whose redundancy outweighs its contribution.
    AlterMOMA prunes these weights first. See docs/evidence.md.

    Args:
        indicators: DeCI and ReRI.
        groups: weight names by parameter group; a group with a modality's name is turned off by the modality's mask.
        alpha: α, weight of the contribution.
        beta: β, weight of the redundancy; with 0 the redundancy is not read and DeCI alone decides.
        normalisation: see :data:`Normalisation`.

    Returns:
        Scores in the shapes and types of the contributions.

    Raises:
        UserError: α or β is not finite, the normalisation is unknown, groups and indicators do not fit, or β is not 0
            and a group has no redundancy.
    """
    if not (isfinite(alpha) and isfinite(beta)):
        raise UserError(f"alpha and beta must be finite, but got alpha={alpha}, beta={beta}")
    if normalisation not in get_args(Normalisation):
        raise UserError(f"normalisation is one of {', '.join(get_args(Normalisation))}, but got '{normalisation}'")
    check_groups(groups, indicators.contribution)
    scores, scored = without_frozen(indicators, groups)
    for group, names in scored.items():
        terms = [(alpha, indicators.contribution)]
        # With β = 0 nothing was masked, and there is no redundancy to read.
        if beta != 0:
            passes = passes_of(indicators, group, names)
            terms += [(-beta / len(passes), weights) for weights in passes]
        # The scale is the only difference between group and layer: the formula below stays the same.
        for summed in [names] if normalisation == "group" else [[name] for name in names]:
            shares = [(_over_sum(factor, weights, summed), weights) for factor, weights in terms]
            for name in summed:
                # In float64: nearly equal terms would leave little of a float32.
                score = sum((weights[name].double() * share for share, weights in shares), start=torch.zeros(()))
                scores[name] = score.to(indicators.contribution[name].dtype)
    return {name: scores[name] for name in indicators.contribution}


def without_frozen(indicators: Indicators, groups: Mapping[str, Sequence[str]]) -> tuple[Weights, dict[str, list[str]]]:
    """Set weights apart whose contribution is infinite: no gradient leads to them, and they are not pruned.

    Returns:
        The scores of these weights, which are their contributions, and the names of all others by group; a group of
        which nothing is left is not among them.
    """
    frozen = {name: value for name, value in indicators.contribution.items() if is_frozen(value)}
    left = {group: [name for name in members if name not in frozen] for group, members in groups.items()}
    return frozen, {group: names for group, names in left.items() if names}


def passes_of(indicators: Indicators, group: str, names: Sequence[str]) -> list[Weights]:
    """ReRI of the passes with a modality other than ``group`` masked.

    Args:
        indicators: DeCI and ReRI.
        group: the parameter group to score.
        names: the group's weights, without frozen ones.

    Raises:
        UserError: a pass lacks some of the weights, or there is no pass.
    """
    passes: list[Weights] = []
    for masked, weights in indicators.redundancy.items():
        missing = [name for name in names if name not in weights]
        # The pass of a group's own mask says nothing of the group: its gradients are zero there.
        if masked == group or len(missing) == len(names):
            continue
        if missing:
            raise UserError(f"the redundancy with {masked} masked lacks '{missing[0]}' of group '{group}': score again")
        passes.append(weights)
    if not passes:
        raise UserError(f"group '{group}' has no redundancy: score it with another modality masked, or take beta=0")
    return passes


def _over_sum(factor: float, weights: Mapping[str, Tensor], names: Sequence[str]) -> float:
    # A float32 sum over millions of weights would lose digits. A sum of zero means a term without effect.
    total = sum(float(weights[name].sum(dtype=torch.float64)) for name in names)
    return factor / total if total else 0.0
