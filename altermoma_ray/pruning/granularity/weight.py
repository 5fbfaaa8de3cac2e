"""Single weights, wherever they are: unstructured pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from altermoma_ray.pruning.granularity.granularity import Granularity, below_all
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target


@dataclass(frozen=True)
class Weight(Granularity):
    """Each weight goes or stays for itself; pruned weights stay in the model as zeros.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> Weight().finalise(layer, Masks({"weight": torch.tensor([[True, False]])})) is layer
    True
    """

    def select(self, scores: Mapping[str, Tensor], target: Target, earlier: Masks | None = None) -> Masks:
        """Prune the weights of lowest score; see :meth:`altermoma_ray.pruning.Target.masks`."""
        return target.masks(below_all(scores, earlier))
