"""A picture of one labelled object of KITTI: in the camera's picture, and from above among the LiDAR's points."""

from __future__ import annotations

import numpy as np
from PIL import Image

from altermoma_ray.data.drawing import LEAST_DEPTH, cut_out, from_above, side_by_side
from altermoma_ray.data.kitti.dataroot import read_picture, read_points
from altermoma_ray.data.kitti.geometry import box_corners, project, transform
from altermoma_ray.data.kitti.index import Index


def draw_object(index: Index, row: int, line: int) -> Image.Image:
    """The object in the camera's picture, if all of its corners lie before the camera, and from above.

    Args:
        index: the data set.
        row: of the frame.
        line: of the object in the frame's file, counted from 0.

    Raises:
        UserError: a sensor's file is missing or broken.
    """
    frame = index.frame(row)
    labels = frame.labels
    height, width, length = labels.sizes[line]
    box = np.array([[*labels.locations[line], length, width, height, labels.rotation_y[line]]])
    corners = box_corners(box)[0]
    views = []
    pixels, depths = project(corners, frame.projection)
    if depths.min() > LEAST_DEPTH:
        views.append(cut_out(read_picture(index.dataroot, frame.name, frame.width, frame.height), pixels))
    points = transform(read_points(index.dataroot, frame.name)[:, :3], frame.to_rectified)
    # To the right and ahead: x and z of the rectified camera frame.
    views.append(from_above(points[:, [0, 2]], corners[:4][:, [0, 2]]))
    return side_by_side(views)
