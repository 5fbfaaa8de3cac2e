"""Non-maximum suppression: of boxes that describe one object, the best stays.

Boxes are rows ``x, y, z, length, width, height, yaw`` (further columns are ignored), best first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.tasks.detection.iou import iou_bev

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def circle_nms(boxes: Array, squared_distance: float, most: int) -> Indices:
    """The boxes whose centre has no better kept centre near it (Yin et al., CenterPoint, CVPR 2021).

    Example: of three cars in a row, the second is a copy of the first::

        >>> boxes = np.zeros((3, 7))
        >>> boxes[:, 0] = 0.0, 1.5, 5.0
        >>> circle_nms(boxes, squared_distance=4.0, most=83)
        array([0, 2])

    Args:
        boxes: [B, 7+], best first.
        squared_distance: a kept box suppresses centres up to this squared distance along x and y (m²).
        most: number of boxes to keep at most.

    Returns:
        Positions of the kept boxes, best first.
    """
    return _greedy(
        len(boxes), most, lambda best, rest: ((boxes[rest, :2] - boxes[best, :2]) ** 2).sum(axis=1) <= squared_distance
    )


def rotated_nms(boxes: Array, overlap: float, most: int) -> Indices:
    """The boxes that overlap no better kept box on the ground by more than a share of their union.

    Example: the same rectangle turned by a right angle overlaps itself by a third::

        >>> boxes = np.array([[0.0, 0, 0, 4, 2, 1, 0], [0, 0, 0, 4, 2, 1, np.pi / 2]])
        >>> rotated_nms(boxes, overlap=0.3, most=83), rotated_nms(boxes, overlap=0.4, most=83)
        (array([0]), array([0, 1]))

    Args:
        boxes: [B, 7+], best first.
        overlap: intersection over union above which a kept box suppresses another.
        most: number of boxes to keep at most.

    Returns:
        Positions of the kept boxes, best first.
    """
    # One kept box against the rest at a time: a matrix of all pairs would take gigabytes for the huge boxes of a
    # diverged network, which all touch.
    return _greedy(len(boxes), most, lambda best, rest: iou_bev(boxes[best : best + 1], boxes[rest])[0] > overlap)


def _greedy(count: int, most: int, suppresses: Callable[[int, Indices], NDArray[np.bool_]]) -> Indices:
    """Keep the best box that is left, and drop the boxes that this box suppresses, until none is left."""
    kept: list[int] = []
    left = np.arange(count)
    while len(left) and len(kept) < most:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        left = left[~suppresses(best, left)]
    return np.array(kept, dtype=np.int64)
