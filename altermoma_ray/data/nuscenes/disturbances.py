"""What a LiDAR may fail to see: the disturbances of the robustness report.

The published robustness sets of BEVFusion (Liang et al., NeurIPS 2022, Section 4.3) have a narrower field of view, and
objects that reflect nothing. Their code spares every second frame from the latter; here each frame is disturbed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from altermoma_ray.data.nuscenes.records import LidarSweep, SampleRecord, sweep_to_keyframe
from altermoma_ray.data.transforms import transform_points


@dataclass(frozen=True)
class Disturbance:
    """A rule for the points which a LiDAR loses.

    >>> DISTURBANCES["lidar-60"].title
    'LiDAR limited to ±60°'
    """

    title: str
    """Text in tables."""
    kept: Callable[[np.ndarray, LidarSweep, SampleRecord], np.ndarray]
    """From the points [P, 3 + k] of a sweep in the sweep's own lidar frame, the sweep and its keyframe to [P] bool."""


def in_sector(points: np.ndarray, sweep: LidarSweep, record: SampleRecord, *, degrees: float) -> np.ndarray:
    """[P] bool: the point lies within an angle to either side of the vehicle's forward axis, seen from the LiDAR.

    Args:
        points: [P, 3 + k] in the sweep's lidar frame.
        sweep: gives the LiDAR's mounting.
        record: the keyframe, which has no part in the rule.
        degrees: half of the field of view.
    """
    forward, left = (points[:, :3] @ sweep.lidar_to_ego[:2, :3].T.astype(points.dtype)).T
    return np.abs(np.arctan2(left, forward)) <= math.radians(degrees)


def outside_lost_objects(points: np.ndarray, sweep: LidarSweep, record: SampleRecord, *, share: float) -> np.ndarray:
    """[P] bool: the point lies in none of the keyframe's objects that are lost.

    Each annotated object is lost by chance, with all its points. The sample's token seeds the draw: a sample loses the
    same objects in every process and in all of its sweeps.

    Args:
        points: [P, 3 + k] in the sweep's lidar frame.
        sweep: of the points.
        record: the keyframe, whose boxes move back at their velocities to the time of the sweep.
        share: probability of an object to be lost.
    """
    seed = int.from_bytes(hashlib.sha256(record.token.encode()).digest()[:8], "big")
    lost = np.random.default_rng(seed).random(len(record.boxes)) < share
    moved = transform_points(points[:, :3].astype(np.float64), sweep_to_keyframe(record, sweep))
    seconds = (record.lidar.timestamp - sweep.timestamp) / 1e6
    kept = np.full(len(points), True)
    for box in np.nan_to_num(record.boxes.boxes[lost]):
        x, y = (moved[:, :2] - (box[:2] - box[7:9] * seconds)).T
        cos, sin = math.cos(box[6]), math.sin(box[6])
        inside = (np.abs(cos * x + sin * y) <= box[3] / 2) & (np.abs(cos * y - sin * x) <= box[4] / 2)
        kept &= ~(inside & (np.abs(moved[:, 2] - box[2]) <= box[5] / 2))
    return kept


DISTURBANCES: Mapping[str, Disturbance] = MappingProxyType(
    {
        "lidar-60": Disturbance("LiDAR limited to ±60°", partial(in_sector, degrees=60.0)),
        "lidar-90": Disturbance("LiDAR limited to ±90°", partial(in_sector, degrees=90.0)),
        "objects-half": Disturbance(
            "half of the objects without LiDAR points", partial(outside_lost_objects, share=0.5)
        ),
    }
)
"""By the names in tables and files."""
