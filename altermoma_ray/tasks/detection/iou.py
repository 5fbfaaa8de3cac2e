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
    """Area shared by pairs of convex quadrilaterals [R, 4, 2], as [R].

    The corners of the shared polygon are among 24 candidates: corners of the one inside the other (8), and crossings
    of two edges (16). The valid candidates, sorted by their angle about their mean, are the polygon.
    """
    # About a point near both, so that the shoelace sum does not lose its digits to large coordinates.
    origin = first.mean(axis=1, keepdims=True)
    first, second = first - origin, second - origin
    crossings, crosses = _edge_crossings(first, second)
    points = np.concatenate((first, second, crossings), axis=1)
    valid = np.concatenate((_inside(first, second), _inside(second, first), crosses), axis=1)

    count = valid.sum(axis=1)
    middle = np.where(valid[..., None], points, 0).sum(axis=1) / np.maximum(count, 1)[:, None]
    points = points - middle[:, None]
    angle = np.where(valid, np.arctan2(points[..., 1], points[..., 0]), np.inf)
    order = angle.argsort(axis=1)
    points = np.take_along_axis(points, order[..., None], axis=1)
    # Invalid candidates stand last (angle ∞); as copies of the first corner they enclose nothing.
    beyond = np.arange(points.shape[1]) >= count[:, None]
    points = np.where(beyond[..., None], points[:, :1], points)
    area = _cross(points, np.roll(points, -1, axis=1)).sum(axis=1) / 2
    return np.where(count >= 3, area, 0)


def _inside(points: Array, polygons: Array) -> NDArray[np.bool_]:
    """Whether points [R, S, 2] lie in convex counter-clockwise polygons [R, 4, 2] or on their rim, [R, S]."""
    edges = np.roll(polygons, -1, axis=1) - polygons
    side = _cross(edges[:, None], points[:, :, None] - polygons[:, None])
    return (side >= -_TOLERANCE).all(axis=2)


def _edge_crossings(first: Array, second: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The points where the lines of 4 × 4 edges meet, [R, 16, 2], and whether both edges reach them, [R, 16]."""
    start, other = first[:, :, None], second[:, None]
    along = np.roll(first, -1, axis=1)[:, :, None] - start
    across = np.roll(second, -1, axis=1)[:, None] - other
    determinant = _cross(along, across)
    parallel = np.abs(determinant) < _TOLERANCE
    # Parallel edges add no corner: where they overlap, their end points are candidates already.
    determinant = np.where(parallel, 1, determinant)
    t = _cross(other - start, across) / determinant
    u = _cross(other - start, along) / determinant
    crosses = ~parallel & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = start + t[..., None] * along
    return points.reshape(len(first), 16, 2), crosses.reshape(len(first), 16)


def _cross(first: Array, second: Array) -> Array:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
