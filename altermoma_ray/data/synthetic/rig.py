"""Where the sensors sit on the car, after the nuScenes car: ego frame x forward, y left, z up (m), origin on the ground
below the rear axle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mount:
    """A sensor's place and heading (rad, from ego +x to +y), and how long before the LiDAR's keyframe it fires (s)."""

    channel: str
    translation: tuple[float, float, float]
    yaw: float
    early: float
    field_of_view: float = 0.0
    """Horizontal (rad); cameras and radars."""


def _mount(channel: str, x: float, y: float, z: float, yaw: float, early: float, view: float = 0.0) -> Mount:
    return Mount(channel, (x, y, z), math.radians(yaw), early, math.radians(view))


# Turned by -90 degrees, as on the nuScenes car: code which takes LiDAR axes for ego axes fails on this data too.
LIDAR = _mount("LIDAR_TOP", 0.94, 0.0, 1.84, -90.0, 0.0)
"""Its x axis points right and its y axis forward."""

CAMERAS = (
    _mount("CAM_FRONT", 1.70, 0.0, 1.51, 0.0, 0.035, 70.0),
    _mount("CAM_FRONT_RIGHT", 1.55, -0.49, 1.50, -55.0, 0.027, 70.0),
    _mount("CAM_BACK_RIGHT", 1.01, -0.48, 1.56, -110.0, 0.020, 70.0),
    _mount("CAM_BACK", 0.03, 0.0, 1.57, 180.0, 0.010, 110.0),
    _mount("CAM_BACK_LEFT", 1.03, 0.48, 1.57, 110.0, 0.001, 70.0),
    _mount("CAM_FRONT_LEFT", 1.55, 0.49, 1.50, 55.0, 0.043, 70.0),
)


def cameras(count: int) -> tuple[Mount, ...]:
    """nuScenes' six cameras; any other number are spread evenly around the car, with names unknown to nuScenes."""
    # Six cameras are nuScenes' own, with its names and gaps: the released weights were trained on this view.
    if count == len(CAMERAS):
        return CAMERAS
    step = 360.0 / count
    # Ten degrees more than the even share, so that neighbours overlap; a wider pinhole stretches its picture's edges.
    view = min(max(step + 10.0, 70.0), 120.0)
    headings = [(number, math.radians(number * step)) for number in range(count)]
    return tuple(
        _mount(f"CAM_{number}", 0.8 + 0.8 * math.cos(yaw), 0.5 * math.sin(yaw), 1.5, math.degrees(yaw), 0.02, view)
        for number, yaw in headings
    )


def lidar(channel: str) -> Mount:
    """The LiDAR under a name."""
    return replace(LIDAR, channel=channel)


RADARS = (
    _mount("RADAR_FRONT", 3.41, 0.0, 0.5, 0.0, 0.030, 120.0),
    _mount("RADAR_FRONT_LEFT", 2.42, 0.8, 0.77, 90.0, 0.022, 120.0),
    _mount("RADAR_FRONT_RIGHT", 2.42, -0.8, 0.77, -90.0, 0.014, 120.0),
    _mount("RADAR_BACK_LEFT", -0.56, 0.62, 0.53, 175.0, 0.018, 120.0),
    _mount("RADAR_BACK_RIGHT", -0.56, -0.62, 0.53, -175.0, 0.008, 120.0),
)

# KITTI's car: the velodyne and two of the four cameras, which look ahead and are level. The frame of calibrations and
# labels is the grey left camera's.
KITTI_LIDAR = _mount("velodyne", 0.76, 0.0, 1.73, 0.0, 0.0)
KITTI_GREY = _mount("image_0", 1.03, 0.0, 1.65, 0.0, 0.0, 81.4)
KITTI_COLOUR = _mount("image_2", 1.025, 0.06, 1.65, 0.0, 0.0, 81.4)
KITTI_BASELINE = 0.54
"""From a left camera to the right one beside it (m)."""

EGO_LENGTH, EGO_WIDTH = 4.08, 1.73
EGO_CENTRE = 1.3
"""The car's middle, ahead of the rear axle (m)."""
ROOF = (-0.3, -0.87, 2.1, 0.87, 1.56)
"""x0, y0, x1, y1 and height of the roof, which hides the ground close by from the LiDAR."""


def yaw_quaternion(yaw: float) -> list[float]:
    """Rotation about z as (w, x, y, z)."""
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def camera_quaternion(yaw: float) -> list[float]:
    """Camera frame (x right, y down, z forward) to ego frame for a level camera, as (w, x, y, z)."""
    # The product of a turn about z by `yaw` and the fixed change of axes (0.5, -0.5, 0.5, -0.5).
    w, z = math.cos(yaw / 2), math.sin(yaw / 2)
    return [0.5 * (w + z), -0.5 * (w + z), 0.5 * (w - z), -0.5 * (w - z)]


def camera_intrinsic(mount: Mount, width: int, height: int) -> NDArray[np.float64]:
    """[3, 3] camera frame to homogeneous pixel; the principal point is the middle of the picture.

    Args:
        mount: gives the field of view.
        width: of the picture (pixels).
        height: of the picture (pixels).
    """
    # Pinhole: half the picture's width lies under half the field of view. One focal length: pixels are square.
    focal = width / 2 / math.tan(mount.field_of_view / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
