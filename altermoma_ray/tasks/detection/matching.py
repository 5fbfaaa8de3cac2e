"""Matching of proposals with objects at the least total cost (Carion et al., DETR; Bai et al., TransFusion).

Notation: ``P`` proposals, ``M`` objects, ``K`` classes. Costs are [P, M]; boxes are rows of nine numbers in the lidar
frame (:mod:`altermoma_ray.data.batch`).

Ties. The published cost has exact ties, and not only for equal boxes. Take two objects of one class and two proposals
which overlap neither of them. Where both proposals lie on the same side of both objects, along x and along y, the sum
of |Δx| + |Δy| over the two pairs is the same for both possible matches, and so are all other costs. Rounding would
decide: models whose parameters differ by 2e-13 would learn from different matches. :func:`order_cost` settles ties of
this kind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.tasks.detection.iou import iou_3d

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Far above any cost of finite outputs, and finite itself: the solver refuses matrices with NaN or ∞.
_IMPOSSIBLE = 1e6

TIE_BREAK = 1e-6
"""Weight of :func:`order_cost`; 0 leaves ties to rounding. The weight lies far above the rounding of a cost (1e-15) and
does not exceed the resolution of the network's float32 outputs; the order therefore decides between equal costs alone.
"""

_DIRECTION = np.array([np.cos(1.0), np.sin(1.0)])
"""The direction at one radian. Boxes often stand side by side along an axis or a diagonal; one radian is neither."""


def match(
    logits: Array,
    boxes: Array,
    object_boxes: Array,
    object_labels: Indices,
    *,
    extent: tuple[float, float],
    config: TransFusionHeadConfig,
) -> tuple[Indices, Indices]:
    """Assign objects to proposals, one to one, at the least total cost (Hungarian method).

    :func:`order_cost` tells equal costs apart. Two costs may also be unequal and yet closer to each other than the
    outputs of two machines are; no rule can settle this case.

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
    # The outputs of a diverged network are matched too: the caller then gets a loss, not finite, to judge by.
    cost = np.nan_to_num(cost, nan=_IMPOSSIBLE, posinf=_IMPOSSIBLE, neginf=_IMPOSSIBLE)
    return linear_sum_assignment(cost)


def focal_cost(logits: Array, labels: Indices, *, gamma: float, alpha: float, epsilon: float = 1e-12) -> Array:
    """Growth of the focal loss if a proposal had to be of an object's class, [P, M].

    Args:
        logits: [P, K] class logits of the proposals.
        labels: [M] classes of the objects.
        gamma: focus.
        alpha: weight of the right class; the other classes weigh ``1 - alpha``.
        epsilon: keeps the logarithms finite at probabilities of 0 and 1.
    """
    probability = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))  # exp of 710 overflows in double precision
    negative = -np.log(1 - probability + epsilon) * (1 - alpha) * probability**gamma
    positive = -np.log(probability + epsilon) * alpha * (1 - probability) ** gamma
    return (positive - negative)[:, labels]


def position_cost(boxes: Array, object_boxes: Array, extent: tuple[float, float]) -> Array:
    """Distance |Δx| + |Δy| between the centres of proposals and objects, [P, M].

    Args:
        boxes: [P, 9] proposed boxes.
        object_boxes: [M, 9].
        extent: length (m) of the map along x and y; distances are shares of these lengths.

    Example: a proposal which is 10 m off along x, on a map of 100 m × 100 m::

        >>> proposed, true = np.zeros((1, 9)), np.zeros((1, 9))
        >>> proposed[0, 0] = 10
        >>> position_cost(proposed, true, (100.0, 100.0))
        array([[0.1]])
    """
    return np.abs((boxes[:, None, :2] - object_boxes[:, :2]) / extent).sum(axis=2)


def order_cost(boxes: Array, object_boxes: Array, extent: tuple[float, float]) -> Array:
    """A cost whose total is least where objects and proposals have the same order along a fixed direction, [P, M].

    With s the centres' offset along the direction, in shares of the map's ``extent``, the cost is √(1 + s²). This cost
    is strictly convex in s. Where two objects stand apart from each other along the direction, and their two proposals
    do so too, exchanging the objects therefore never leaves the total equal. The cost grows no faster than
    :func:`position_cost`.

    Args:
        boxes: [P, 9] proposed boxes.
        object_boxes: [M, 9].
        extent: length (m) of the map along x and y; offsets are shares of these lengths.
    """
    along, objects_along = ((part[:, :2] / extent) @ _DIRECTION for part in (boxes, object_boxes))
    return np.hypot(1.0, along[:, None] - objects_along)
