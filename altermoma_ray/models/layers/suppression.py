"""Suppression of neighbours among axis-aligned boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

_FIRST_TRY = 4


def best_apart(boxes: Tensor, scores: Tensor, *, overlap: float, most: int) -> Tensor:
    """Rows of the best boxes of which none overlaps a better one by more than a share of their union, best first.

    >>> boxes = torch.tensor([[0.0, 0, 4, 2], [0.0, 0, 4, 2.1], [9.0, 0, 13, 2]])
    >>> best_apart(boxes, torch.tensor([0.5, 0.9, 0.1]), overlap=0.8, most=2)
    tensor([1, 2])

    Args:
        boxes: [R, 4] least x, least y, greatest x, greatest y.
        scores: [R]; among equal scores the first row is the best.
        overlap: IoU above which a kept box suppresses another.
        most: number of rows to keep at most.

    Returns:
        [K] int64, K <= ``most``.
    """
    order = scores.argsort(descending=True, stable=True)
    # The best boxes suffice in general: what is kept of them does not depend on the rest. Thousands of boxes would all
    # be compared otherwise.
    count = min(len(order), _FIRST_TRY * most)
    while True:
        tried = order[:count]
        kept = nms(boxes[tried], _falling(count, boxes), overlap)
        if len(kept) >= most or count == len(order):
            return tried[kept[:most]]
        count = min(len(order), 2 * count)


def _falling(count: int, like: Tensor) -> Tensor:
    """Scores in the order in which the boxes come; the given ones may be equal or NaN."""
    return torch.arange(count, 0, -1, device=like.device, dtype=like.dtype)
