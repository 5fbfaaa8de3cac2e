"""One keyframe of the index: file names, calibration, poses and boxes.

Every matrix ``a_to_b`` is [4, 4] float64 and takes homogeneous points of frame *a* to frame *b* (m): *sensor*
(lidar, camera, radar), *ego* (the vehicle at the time of the sensor's exposure) and *global* (the map). Times are in
microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray


@dataclass(frozen=True, kw_only=True)
class CameraFrame:
    """One picture."""

    file: str
    """Path below the dataroot."""
    timestamp: int
    width: int
    height: int
    intrinsic: Array
    """[3, 3] camera frame to homogeneous pixel of the original picture."""
    camera_to_ego: Array
    ego_to_global: Array


@dataclass(frozen=True, kw_only=True)
class LidarSweep:
    """One turn of the LiDAR."""

    file: str
    timestamp: int
    # Calibration and pose stay apart, as in the tables: each sweep has a pose of its own.
    lidar_to_ego: Array
    ego_to_global: Array

    @property
    def lidar_to_global(self) -> Array:
        return self.ego_to_global @ self.lidar_to_ego


@dataclass(frozen=True, kw_only=True)
class RadarFrame:
    """One radar's returns, at the keyframe or before."""

    file: str
    timestamp: int
    radar_to_ego: Array
    ego_to_global: Array


@dataclass(frozen=True, kw_only=True)
class BoxTable:
    """All M annotations of a keyframe, also outside the detection classes.

    Example: the boxes to learn from::

        boxes = record.boxes.boxes[record.boxes.learnable]
    """

    boxes: Array
    """[M, 9] float64 in the lidar frame, as in :mod:`altermoma_ray.data.batch`; velocities are NaN when unknown."""
    global_boxes: Array
    """[M, 9] float64, the same boxes in the global frame, exactly as annotated, for the official metric."""
    labels: Array
    """[M] indices into ``CLASSES``; -1 for a category outside the detection classes."""
    categories: list[str]
    """Category names, e.g. ``vehicle.car``."""
    attributes: list[str]
    """Attribute names, e.g. ``vehicle.moving``; empty when there is none."""
    visibility: Array
    """[M] 1 (0-40 % visible) to 4 (80-100 %); 0 when not annotated."""
    num_lidar_pts: Array
    num_radar_pts: Array
    tokens: list[str]
    instance_tokens: list[str]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def learnable(self) -> Array:
        """[M] bool: of a detection class and hit by at least one LiDAR or radar point (the published rule)."""
        # Radar points count too, as in the published code: far cars are often hit by radar alone.
        return (self.labels >= 0) & (self.num_lidar_pts + self.num_radar_pts > 0)


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One keyframe of all sensors."""

    token: str
    scene_token: str
    scene_name: str
    split: str
    timestamp: int
    location: str
    """The map's name, e.g. ``singapore-onenorth``."""
    cameras: Mapping[str, CameraFrame]
    """By channel, e.g. ``CAM_FRONT``."""
    lidar: LidarSweep
    sweeps: list[LidarSweep]
    """Up to ten earlier turns of the LiDAR, newest first."""
    radars: Mapping[str, RadarFrame]
    """By channel, e.g. ``RADAR_FRONT``."""
    radar_sweeps: Mapping[str, list[RadarFrame]]
    """By channel, up to five earlier measurements, newest first."""
    boxes: BoxTable

    @property
    def lidar_to_global(self) -> Array:
        return self.lidar.lidar_to_global


def camera_to_lidar(record: SampleRecord, camera: str) -> Array:
    """[4, 4] camera frame to the keyframe's lidar frame, the ego's motion between the two exposures included."""
    frame = record.cameras[camera]
    # By way of the map: the vehicle moves on between the two exposures, by decimetres at speed.
    return np.linalg.inv(record.lidar_to_global) @ frame.ego_to_global @ frame.camera_to_ego


def sweep_to_keyframe(record: SampleRecord, sweep: LidarSweep) -> Array:
    """[4, 4] lidar frame of an earlier sweep to the keyframe's lidar frame."""
    # By way of the map as well: each sweep has its own pose, since the vehicle moved in between.
    return np.linalg.inv(record.lidar_to_global) @ sweep.lidar_to_global


def project(points: Array, record: SampleRecord, camera: str) -> tuple[Array, Array]:
    """Project points of the lidar frame into an original picture.

    Args:
        points: [P, 3] in the keyframe's lidar frame (m), e.g. the centres of boxes.
        record: the keyframe.
        camera: the channel.

    Returns:
        [P, 2] pixels (u, v), meaningful where the depth is positive, and [P] depths in the camera frame (m).
    """
    # One 4 x 4 matrix is inverted, not a pose for each point.
    lidar_to_camera = np.linalg.inv(camera_to_lidar(record, camera))
    seen = (points @ lidar_to_camera[:3, :3].T + lidar_to_camera[:3, 3]) @ record.cameras[camera].intrinsic.T
    # Points in the camera's plane have depth 0; the caller tells them by their depths.
    with np.errstate(divide="ignore", invalid="ignore"):
        return seen[:, :2] / seen[:, 2:], seen[:, 2]
