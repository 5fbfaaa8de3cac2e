"""Intersection over union of rotated boxes, for all pairs at once.

Notation: boxes are rows ``x, y, z, length, width, height, yaw`` (further columns are ignored), ``z`` at the centre;
``A`` and ``B`` boxes on the two sides, ``R`` pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TOLERANCE = 1e-9
_CORNER_SIGNS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2


def iou_3d(first: Array, second: Array) -> Array:
    """Intersection over union of the volumes of boxes [A, 7+] and [B, 7+], as [A, B].

    Example: a box, and the same box lifted by half of its height, share a third of their union::

        >>> box = np.array([[0.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.5]])
        >>> iou_3d(box, box + [0, 0, 1, 0, 0, 0, 0]).round(4)
        array([[0.3333]])
    """
    overlap = intersection_area(first, second) * _overlap_in_height(first, second)
    volume_first, volume_second = first[:, 3:6].prod(axis=1), second[:, 3:6].prod(axis=1)
    union = volume_first[:, None] + volume_second - overlap
    return overlap / np.maximum(union, _TOLERANCE)


def iou_bev(first: Array, second: Array) -> Array:
    """Intersection over union of the ground rectangles of boxes [A, 7+] and [B, 7+], as [A, B].

    Example: two rectangles of 4 m × 2 m, one of them moved by 2 m along its length::

        >>> box = np.array([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0]])
        >>> iou_bev(box, box + [2, 0, 0, 0, 0, 0, 0]).round(4)
        array([[0.3333]])
    """
    overlap = intersection_area(first, second)
    union = first[:, 3:5].prod(axis=1)[:, None] + second[:, 3:5].prod(axis=1) - overlap
    return overlap / np.maximum(union, _TOLERANCE)


def intersection_area(first: Array, second: Array) -> Array:
    """Area (m²) shared by the ground rectangles of boxes [A, 7+] and [B, 7+], as [A, B]."""
    distance = np.hypot(*(first[:, None, axis] - second[None, :, axis] for axis in (0, 1)))
    reach = np.hypot(first[:, 3], first[:, 4])[:, None] + np.hypot(second[:, 3], second[:, 4])
    # Most pairs are too far apart to touch; only the rest is worth clipping. `reach` adds whole diagonals where the
    # circles around the rectangles have half of them as radius, hence the doubled distance.
    near = np.nonzero(2 * distance < reach)
    area = np.zeros_like(distance)
    area[near] = _convex_intersection(_corners(first[near[0]]), _corners(second[near[1]]))
    return area


def _overlap_in_height(first: Array, second: Array) -> Array:
    top = np.minimum((first[:, 2] + first[:, 5] / 2)[:, None], second[:, 2] + second[:, 5] / 2)
    bottom = np.maximum((first[:, 2] - first[:, 5] / 2)[:, None], second[:, 2] - second[:, 5] / 2)
    return np.maximum(top - bottom, 0)


def _corners(boxes: Array) -> Array:
    """Corners [R, 4, 2] of the ground rectangles, counter-clockwise."""
    local = boxes[:, None, 3:5] * _CORNER_SIGNS
    cosine, sine = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x, y = local[..., 0], local[..., 1]
    return np.stack((cosine * x - sine * y, sine * x + cosine * y), axis=-1) + boxes[:, None, :2]


def _convex_intersection(first: Array, second: Array) -> Array:
    """Area shared by pairs of convex counter-clockwise quadrilaterals [R, 4, 2], as [R].

    Each edge of the second cuts off the first's part on its outer side (Sutherland and Hodgman, 1974). No tolerance is
    needed: a corner misjudged by rounding moves the rim by as little. Where coordinates and products need no rounding,
    as with sides along the axes at whole or halved metres, the area is exact.
    """
    # About a point near both, so that the products do not lose their digits to large coordinates.
    origin = first[:, :1]
    polygon, second = first - origin, second - origin
    count = np.full(len(polygon), 4)
    for edge in range(4):
        polygon, count = _cut(polygon, count, second[:, edge], second[:, (edge + 1) % 4])
    # Corners beyond the count are copies of the first one, which enclose nothing.
    corners = polygon - polygon[:, :1]
    area = _cross(corners[:, 1:-1], corners[:, 2:]).sum(axis=1) / 2
    return np.maximum(area, 0)


def _cut(polygon: Array, count: Array, start: Array, stop: Array) -> tuple[Array, Array]:
    """The parts of convex polygons [R, S, 2] left of the lines from ``start`` to ``stop`` [R, 2], or on them.

    Args:
        polygon: corners, counter-clockwise; those beyond the count are copies of the first.
        count: [R] number of corners; 0 for a polygon that is gone.
        start: one point of each line.
        stop: another one.

    Returns:
        The polygons [R, longest, 2] and their counts, in the same form.
    """
    following = np.roll(polygon, -1, axis=1)
    side = _cross((stop - start)[:, None], polygon - start[:, None])
    side_following = np.roll(side, -1, axis=1)
    real = np.arange(polygon.shape[1]) < count[:, None]
    inside = real & (side >= 0)
    crosses = real & ((side >= 0) != (side_following >= 0))
    # Multiplied before it is divided: where the crossing is a representable point, it is met exactly.
    drop = np.where(crosses, side - side_following, 1)[..., None]
    crossing = polygon + (following - polygon) * side[..., None] / drop
    # Each edge leaves its first corner, its crossing, both or none, in the order along the rim.
    kept = np.stack((inside, crosses), axis=2).reshape(len(polygon), 2 * polygon.shape[1])
    points = np.stack((polygon, crossing), axis=2).reshape(len(polygon), 2 * polygon.shape[1], 2)
    count = kept.sum(axis=1)
    # As wide as the longest polygon: rounding can make more than the one further corner of exact arithmetic.
    order = np.argsort(~kept, axis=1, kind="stable")[:, : max(count.max(initial=0), 1)]
    points = np.take_along_axis(points, order[..., None], axis=1)
    beyond = np.arange(points.shape[1]) >= count[:, None]
    return np.where(beyond[..., None], points[:, :1], points), count


def _cross(first: Array, second: Array) -> Array:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
