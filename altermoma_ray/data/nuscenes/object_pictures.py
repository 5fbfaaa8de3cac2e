"""A picture of one annotated object of nuScenes: in the camera that sees it best, and from above."""

from __future__ import annotations

import numpy as np
from PIL import Image

from altermoma_ray.data.drawing import LEAST_DEPTH, cut_out, from_above, side_by_side
from altermoma_ray.data.nuscenes.dataroot import read_picture, read_points
from altermoma_ray.data.nuscenes.index import Index
from altermoma_ray.data.nuscenes.records import Array, SampleRecord, project


def draw_object(index: Index, row: int, token: str) -> Image.Image:
    """The object in the camera's picture, if one shows all of its corners' directions, and among the LiDAR's points.

    Args:
        index: the data set.
        row: of the keyframe.
        token: of the annotation.

    Raises:
        UserError: a sensor's file is missing or broken.
    """
    record = index.record(row)
    corners = box_corners(record.boxes.boxes[record.boxes.tokens.index(token)])
    views = []
    if (seen := _best_camera(record, corners)) is not None:
        camera, pixels = seen
        frame = record.cameras[camera]
        picture = read_picture(index.dataroot, frame.file, frame.width, frame.height, index.reading)
        views.append(cut_out(picture, pixels))
    points = read_points(index.dataroot, record.lidar.file, index.reading)
    views.append(from_above(points[:, :2], corners[:4, :2]))
    return side_by_side(views)


def box_corners(box: Array) -> Array:
    """The corners [8, 3] of a box [9] in its frame (m): four of the bottom, then four of the top in the same order.

    >>> box_corners(np.array([0, 0, 1.0, 4.0, 2.0, 2.0, 0, 0, 0]))[[0, 4]].tolist()
    [[2.0, 1.0, 0.0], [2.0, 1.0, 2.0]]
    """
    x, y, z, length, width, height, yaw = box[:7]
    ahead = np.array([1, -1, -1, 1] * 2) / 2 * length
    across = np.array([1, 1, -1, -1] * 2) / 2 * width
    up = np.array([-1] * 4 + [1] * 4) / 2 * height
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([x + cos * ahead - sin * across, y + sin * ahead + cos * across, z + up], axis=1)


def _best_camera(record: SampleRecord, corners: Array) -> tuple[str, Array] | None:
    """The camera whose picture has the object's centre nearest to its middle, and the corners' pixels [8, 2]."""
    found = {}
    for camera, frame in record.cameras.items():
        pixels, depths = project(np.vstack((corners, corners.mean(axis=0))), record, camera)
        size = np.array([frame.width, frame.height])
        if depths.min() > LEAST_DEPTH and ((pixels[8] >= 0) & (pixels[8] < size)).all():
            found[camera] = abs(pixels[8, 0] / frame.width - 0.5), pixels[:8]
    best = min(found, key=lambda camera: found[camera][0], default=None)
    return None if best is None else (best, found[best][1])
