"""The weights each criterion would remove, and the share removed by any two criteria alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from altermoma_ray.engine.redundancy.shares import jaccard
from altermoma_ray.pruning import Masks
from altermoma_ray.tracking.redundancy.records import Removal


def removals(masks: Mapping[str, Masks], groups: Mapping[str, Sequence[str]]) -> list[Removal]:
    """One entry for each criterion, compared with all.

    >>> masks = {"snip": Masks({"w": torch.tensor([True, False])}), "deci": Masks({"w": torch.tensor([False, False])})}
    >>> removals(masks, {"all": ["w"]})[0].overlap_removed
    {'snip': 1.0, 'deci': 0.5}

    Args:
        masks: by criterion, all of the same weights.
        groups: weight names by group.
    """
    # One order of weights for all criteria: their vectors are compared place by place.
    names = [name for group in groups.values() for name in group]
    kept = {criterion: torch.cat([mask[name].flatten() for name in names]) for criterion, mask in masks.items()}
    return [
        Removal(
            criterion=criterion,
            sparsity={"total": mask.sparsity(), **mask.sparsity_by_group(groups)},
            layers=mask.sparsity_by_layer(),
            # Both overlaps: at a sparsity of 0.9 any two criteria agree on most removed weights by chance alone, so the
            # kept ones tell more; at a low sparsity the reverse holds.
            overlap={other: jaccard(kept[criterion], kept[other]) for other in masks},
            overlap_removed={other: jaccard(~kept[criterion], ~kept[other]) for other in masks},
        )
        for criterion, mask in masks.items()
    ]
