"""Which proposal answers for which object: the least total cost (Carion et al., DETR; Bai et al., TransFusion).

Notation: ``P`` proposals, ``M`` objects, ``K`` classes. Costs are [P, M]; boxes are rows of nine numbers in the lidar
frame (:mod:`altermoma_ray.data.batch`).

Ties. The published cost has exact ties, and not only for equal boxes. Take two objects of one class and two proposals
that overlap neither. Where both proposals lie on the same side of both objects, along x and along y, |Δx| + |Δy| adds
up to the same whichever object each proposal answers for, and so does all else. Rounding would decide, so that models
whose parameters are 2e-13 apart learn from different matches. :func:`order_cost` settles such ties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from altermoma_ray.models.configurations.config import HeadConfig
from altermoma_ray.tasks.detection.iou import iou_3d

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_IMPOSSIBLE = 1e6

TIE_BREAK = 1e-6
"""Weight of :func:`order_cost`; 0 leaves ties to rounding. Far above the rounding of a cost (1e-15), and no larger than
what the network's float32 outputs resolve, so that it decides between equal costs alone."""

_DIRECTION = np.array([np.cos(1.0), np.sin(1.0)])
"""Of one radian: neither an axis nor a diagonal, along which boxes often stand side by side."""


def match(
    logits: Array,
    boxes: Array,
    object_boxes: Array,
    object_labels: Indices,
    *,
    extent: tuple[float, float],
    config: HeadConfig,
) -> tuple[Indices, Indices]:
    """Assign objects to proposals, one to one, at the least total cost (Hungarian method).

    Equal costs are told apart by :func:`order_cost`. What it cannot settle are costs that are not equal but closer than
    the outputs of two machines, which no rule can.

    Args:
        logits: [P, K] class logits.
        boxes: [P, 9] proposed boxes.
        object_boxes: [M, 9].
        object_labels: [M].
        extent: length (m) of the map along x and y, by which distances are divided.
        config: weights of the costs (``match_...``), focus and balance of the focal one (``focal_...``).

    Returns:
        Proposals and their objects, both [min(P, M)].
    """
    with np.errstate(invalid="ignore", over="ignore"):
        cost = (
            config.match_class * focal_cost(logits, object_labels, gamma=config.focal_gamma, alpha=config.focal_alpha)
            + config.match_box * position_cost(boxes, object_boxes, extent)
            - config.match_iou * iou_3d(boxes, object_boxes)
            + TIE_BREAK * order_cost(boxes, object_boxes, extent)
        )
    # What a diverged network says is matched anyhow, so that its loss comes out, not finite, for the caller to judge.
    cost = np.nan_to_num(cost, nan=_IMPOSSIBLE, posinf=_IMPOSSIBLE, neginf=_IMPOSSIBLE)
    return linear_sum_assignment(cost)


def focal_cost(logits: Array, labels: Indices, *, gamma: float, alpha: float, epsilon: float = 1e-12) -> Array:
    """How much the focal loss would grow if proposals with logits [P, K] had to be of the classes [M], [P, M]."""
    probability = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    negative = -np.log(1 - probability + epsilon) * (1 - alpha) * probability**gamma
    positive = -np.log(probability + epsilon) * alpha * (1 - probability) ** gamma
    return (positive - negative)[:, labels]


def position_cost(boxes: Array, object_boxes: Array, extent: tuple[float, float]) -> Array:
    """Distance |Δx| + |Δy| of the centres of boxes [P, 9] and [M, 9], in shares of the map's ``extent``, [P, M]."""
    return np.abs((boxes[:, None, :2] - object_boxes[:, :2]) / extent).sum(axis=2)


def order_cost(boxes: Array, object_boxes: Array, extent: tuple[float, float]) -> Array:
    """Least where objects and proposals have the same order along a fixed direction, [P, M].

    With s the centres' offset along that direction, in shares of the map's ``extent``, the cost is √(1 + s²). It is
    strictly convex in s, so that two objects that both stand apart from each other along the direction, as do their two
    proposals, are never exchanged at equal cost; and it grows no faster than :func:`position_cost`.
    """
    along, objects_along = ((part[:, :2] / extent) @ _DIRECTION for part in (boxes, object_boxes))
    return np.hypot(1.0, along[:, None] - objects_along)
