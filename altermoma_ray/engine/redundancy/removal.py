"""What each criterion would remove, and how much of that the criteria have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from altermoma_ray.engine.redundancy.shares import jaccard
from altermoma_ray.pruning import Masks
from altermoma_ray.tracking.redundancy.records import Removal


def removals(masks: Mapping[str, Masks], groups: Mapping[str, Sequence[str]]) -> list[Removal]:
    """One entry for each criterion, compared with all.

    Args:
        masks: by criterion, all of the same weights.
        groups: weight names by group.
    """
    names = [name for group in groups.values() for name in group]
    kept = {criterion: torch.cat([mask[name].flatten() for name in names]) for criterion, mask in masks.items()}
    return [
        Removal(
            criterion=criterion,
            sparsity={"total": mask.sparsity(), **mask.sparsity_by_group(groups)},
            layers=mask.sparsity_by_layer(),
            overlap={other: jaccard(kept[criterion], kept[other]) for other in masks},
            overlap_removed={other: jaccard(~kept[criterion], ~kept[other]) for other in masks},
        )
        for criterion, mask in masks.items()
    ]
