"""Which anchors and proposals are of which object, and how much each counts in a frame's loss.

Notation: ``R`` rectangles of anchors or proposals, ``M`` objects of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

BACKGROUND, IGNORED = -1, -2
"""In the place of an object's number: the rectangle is of no object, or teaches nothing."""


def owners(
    rectangles: Tensor, objects: Tensor, labels: Tensor, *, positive: Sequence[float], negative: Sequence[float]
) -> Tensor:
    """The object of each rectangle, [R] int64: its number, :data:`BACKGROUND` or :data:`IGNORED`.

    The object of the greatest overlap decides, by the limits of its type. Of equal overlaps the first object's counts.

    Args:
        rectangles: [R, 4] on the ground.
        objects: [M, 4] on the ground.
        labels: [M] types of the objects.
        positive: IoU above which a rectangle is the object's, by type.
        negative: IoU below which a rectangle is background, by type.
    """
    if len(objects) == 0:
        return torch.full((len(rectangles),), BACKGROUND, device=rectangles.device)
    greatest, owner = box_iou(rectangles, objects).max(dim=1)
    types = labels[owner]
    is_object = greatest > greatest.new_tensor(positive)[types]
    is_background = greatest < greatest.new_tensor(negative)[types]
    return owner.masked_fill(~is_object, IGNORED).masked_fill(is_background, BACKGROUND)


def shares(owner: Tensor, size: int) -> Tensor:
    """The weight of each rectangle in a mean over a mini-batch, [R], with a sum of 1 where a rectangle counts.

    The published code draws a mini-batch at random: at most half of it objects' rectangles, background for the rest.
    The weight here is a rectangle's chance to be drawn, over the size of the mini-batch. A sum with these weights is
    the expected loss of the drawn mini-batches, and its gradient the expected gradient. Nothing is drawn, so that a
    frame has one loss, whichever worker computes it.

    >>> shares(torch.tensor([0, BACKGROUND, BACKGROUND, BACKGROUND, IGNORED]), size=2)
    tensor([0.5000, 0.1667, 0.1667, 0.1667, 0.0000])

    Args:
        owner: [R] see :func:`owners`.
        size: of the mini-batch.
    """
    is_object, is_background = owner >= 0, owner == BACKGROUND
    objects, others = int(is_object.sum()), int(is_background.sum())
    drawn = min(objects, size // 2)
    filled = min(others, size - drawn)
    total = max(1, drawn + filled)
    of_object, of_other = drawn / max(1, objects) / total, filled / max(1, others) / total
    return is_object.float() * of_object + is_background.float() * of_other
