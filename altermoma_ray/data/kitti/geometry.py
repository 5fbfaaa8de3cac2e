"""Geometry of the rectified camera frame: boxes, their projections, and the mirror image of everything.

Notation: a box is x, y, z (m) of the bottom's centre, length, width, height (m) and rotation_y (rad); at rotation_y 0
the length lies along x and the width along z. A mirrored frame is the same scene with left and right exchanged: x
becomes -x, and the pixel u of a picture W pixels wide becomes W - u.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def transform(points: NDArray[np.floating], matrix: Floats) -> Floats:
    """[P, 3] points in another frame.

    Args:
        points: [P, 3 or more] with x, y, z first.
        matrix: [3, 4] from the frame of the points to the other.
    """
    return points[:, :3].astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]


def project(points: Floats, projection: Floats) -> tuple[Floats, Floats]:
    """Pixels [P, 2], and depths [P] (m); pixels of points with a depth of 0 or less mean nothing.

    Args:
        points: [P, 3] rectified camera frame.
        projection: [3, 4] to homogeneous pixel.
    """
    homogeneous = transform(points, projection)
    depth = homogeneous[:, 2]
    return homogeneous[:, :2] / np.where(depth == 0, 1e-9, depth)[:, None], depth


def box_corners(boxes: Floats) -> Floats:
    """[M, 8, 3] corners: the four of the bottom, then the four of the top in the same order.

    Args:
        boxes: [M, 7].
    """
    ahead = np.array([1, 1, -1, -1] * 2) / 2 * boxes[:, 3:4]
    across = np.array([1, -1, -1, 1] * 2) / 2 * boxes[:, 4:5]
    up = np.array([0] * 4 + [1] * 4) * boxes[:, 5:6]
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    # A turn about y, which points down: from x towards -z.
    x = boxes[:, 0:1] + cos * ahead + sin * across
    z = boxes[:, 2:3] - sin * ahead + cos * across
    return np.stack([x, boxes[:, 1:2] - up, z], axis=2)


def boxes_in_picture(boxes: Floats, projection: Floats) -> Floats:
    """[M, 4] left, top, right, bottom of the projected boxes (pixels), not clipped by the picture.

    Args:
        boxes: [M, 7], each with all corners before the camera.
        projection: [3, 4] to homogeneous pixel.
    """
    pixels, _ = project(box_corners(boxes).reshape(-1, 3), projection)
    pixels = pixels.reshape(-1, 8, 2)
    return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)


def mirror_points(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """[P, 3 or more] points of the mirrored frame, x first."""
    return points * np.where(np.arange(points.shape[1]) == 0, -1, 1).astype(points.dtype)


def mirror_boxes(boxes: Floats) -> Floats:
    """[M, 7] boxes of the mirrored frame; rotation_y r becomes pi - r, or -pi - r below 0."""
    mirrored = boxes.copy()
    mirrored[:, 0] = -boxes[:, 0]
    mirrored[:, 6] = np.where(boxes[:, 6] >= 0, np.pi, -np.pi) - boxes[:, 6]
    return mirrored


def mirror_plane(plane: Floats) -> Floats:
    """[4] plane of the mirrored frame."""
    return plane * np.array([-1.0, 1.0, 1.0, 1.0])


def mirror_projection(projection: Floats, width: float) -> Floats:
    """[3, 4] projection of the mirrored frame to the mirrored picture.

    The published code changes the principal point and the sign of the horizontal offset alone, and so leaves out the
    picture's width times the offset along the optical axis: a third of a pixel at 20 m. Here nothing is left out.

    Args:
        projection: [3, 4] to homogeneous pixel.
        width: of the picture (pixels).
    """
    picture = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return picture @ projection * np.array([-1.0, 1.0, 1.0, 1.0])


def resized_projection(projection: Floats, wide: float, high: float) -> Floats:
    """[3, 4] projection to a resized picture.

    Args:
        projection: [3, 4] to homogeneous pixel of the original picture.
        wide: width of the resized picture over the original's.
        high: height of the resized picture over the original's.
    """
    return projection * np.array([[wide], [high], [1.0]])
