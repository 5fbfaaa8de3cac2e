"""One frame of the synthetic KITTI: picture, points, labels, calibration and plane.

Frames: ego (see ``rig``); *velodyne*, ego axes about the LiDAR; *rectified*, x right, y down, z forward about the grey
left camera; pixels (u right, v down).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altermoma_ray.data.kitti.labels import Labels, format_labels
from altermoma_ray.data.synthetic import camera, lidar, rig
from altermoma_ray.data.synthetic.area import AHEAD
from altermoma_ray.data.synthetic.cues import Cues
from altermoma_ray.data.synthetic.kitti_kinds import KITTI_KINDS
from altermoma_ray.data.synthetic.raycast import Placement, placements
from altermoma_ray.data.synthetic.scene import count_points
from altermoma_ray.data.synthetic.world import plan_scene

FOLDERS = ("image_2", "velodyne", "calib", "label_2", "planes")
FARTHEST = 40.0
"""Objects farther ahead are not labelled, as in KITTI far ones are not (m, rectified z)."""
MINIMUM_POINTS = 3
MINIMUM_SHARE = 0.1
"""Of an object's pixels that must be seen for a label."""
GREATEST_TRUNCATION = 0.8
OCCLUSION_LIMITS = (0.8, 0.4, 0.2)
"""Least visible shares of the occlusion levels 0, 1 and 2; below is 3, unknown."""
SECTOR = math.radians(60.0)
"""Points are kept this far to both sides of straight ahead; the picture has 41 degrees."""
# A small turn about each axis, as real rectifications have: code that forgets R0_rect shows errors.
_TILT = (0.008, -0.009, 0.010)
_NO_BOX = (-1.0, -1.0, -1.0)
_NO_PLACE = (-1000.0, -1000.0, -1000.0)


@dataclass(frozen=True, kw_only=True)
class FrameParameters:
    """The parameters of a synthetic KITTI; the same parameters give the same bytes."""

    train: int
    """Frames of the training split."""
    val: int
    """Frames of the validation split."""
    seed: int
    width: int
    """Of a picture (pixels); the height follows KITTI's 1242 x 375."""
    azimuths: int
    """LiDAR returns a ring, all around."""

    @property
    def height(self) -> int:
        return round(self.width * 375 / 1242)


@dataclass(frozen=True)
class View:
    """An object as the sensors of one frame see it."""

    type: str
    size: tuple[float, float, float]
    """Height, width, length (m)."""
    location: tuple[float, float, float]
    """Middle of the bottom, rectified frame (m)."""
    rotation_y: float
    box: NDArray[np.float64]
    """[4] left, top, right, bottom of the projected box, not clipped (pixels)."""
    share: float
    """Of its pixels in the picture, the share that nothing hides; 0 without any pixel."""
    points: int
    """LiDAR points in its box."""


# A process writes many frames of one data set: rays and ground points are the same for all of them.
@lru_cache(maxsize=1)
def _sensors(parameters: FrameParameters) -> tuple[camera.Camera, lidar.Lidar]:
    eye = camera.Camera(rig.KITTI_COLOUR, parameters.width, parameters.height)
    return eye, lidar.Lidar(parameters.azimuths, lidar.HDL64)


def projections(parameters: FrameParameters) -> list[NDArray[np.float64]]:
    """[3, 4] of the four cameras P0 to P3: rectified frame to homogeneous pixel."""
    intrinsic = rig.camera_intrinsic(rig.KITTI_COLOUR, parameters.width, parameters.height)
    found = []
    for mount, right in ((rig.KITTI_GREY, 0.0), (rig.KITTI_COLOUR, 0.0)):
        for beside in (right, rig.KITTI_BASELINE):
            place = _to_rectified(np.array([mount.translation]))[0] + [beside, 0.0, 0.0]
            found.append(intrinsic @ np.column_stack([np.eye(3), -place]))
    return found


def rectification() -> NDArray[np.float64]:
    """[3, 3] grey camera before rectification to rectified frame (R0_rect)."""
    about_x, about_y, about_z = _TILT
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(angle), math.sin(angle)) for angle in (about_x, about_y, about_z))
    turns = [
        [[1, 0, 0], [0, cx, -sx], [0, sx, cx]],
        [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]],
        [[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]],
    ]
    return np.linalg.multi_dot([np.array(turn, np.float64) for turn in turns])


def calibration_text(parameters: FrameParameters) -> str:
    """The calibration file of every frame, in the official form."""
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    offset = _to_rectified(np.array([rig.KITTI_LIDAR.translation]))[0]
    straight = rectification()
    entries = {f"P{number}": matrix for number, matrix in enumerate(projections(parameters))}
    entries["R0_rect"] = straight
    entries["Tr_velo_to_cam"] = straight.T @ np.column_stack([axes, offset])
    # An inertial unit on the ground below the rear axle: the ego frame itself.
    entries["Tr_imu_to_velo"] = np.column_stack([np.eye(3), -np.array(rig.KITTI_LIDAR.translation)])
    lines = (f"{name}: {' '.join(f'{value:.12e}' for value in matrix.flat)}\n" for name, matrix in entries.items())
    return "".join(lines) + "\n"


def plane_text() -> str:
    """The plane file of every frame: the town is flat and the car level."""
    return f"# Matrix\nWIDTH 4\nHEIGHT 1\n0.0 -1.0 0.0 {rig.KITTI_GREY.translation[2]:g}\n"


def write_frame(parameters: FrameParameters, root: Path, number: int) -> None:
    """Write the files of one frame.

    Args:
        parameters: of the data set.
        root: the folder ``training``, with all its sub-folders made.
        number: of the frame, from 0.
    """
    picture, points, labels = make_frame(parameters, number)
    stream = io.BytesIO()
    # Noise does not compress: a higher level would cost time and spare a few hundredths.
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    contents = {
        "image_2": stream.getvalue(),
        "velodyne": points.astype("<f4").tobytes(),
        "calib": calibration_text(parameters).encode(),
        "label_2": format_labels(labels).encode(),
        "planes": plane_text().encode(),
    }
    for folder, content in contents.items():
        ending = {"image_2": "png", "velodyne": "bin"}.get(folder, "txt")
        (root / folder / f"{number:06d}.{ending}").write_bytes(content)


def make_frame(parameters: FrameParameters, number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], Labels]:
    """Picture [H, W, 3], points [P, 4] (velodyne frame, reflectance 0..1) and labels of a frame."""
    eye, spinner = _sensors(parameters)
    # One stream a purpose, seeded by the frame's number: frames are written by many processes.
    plans, rays, pixels = (np.random.default_rng([parameters.seed, number, purpose]) for purpose in range(3))
    now = np.zeros(1)
    scene = plan_scene(plans, now, now, Cues(), kinds=KITTI_KINDS, area=AHEAD)
    pose = scene.ego.pose(0.0)
    placed = placements(scene.bodies, pose, 0.0)
    x, y, z, intensity, _ = lidar.measure(spinner, placed, rays).T
    ahead = np.abs(np.arctan2(y, x)) < SECTOR
    points = np.stack([x, y, z, intensity / 255], 1)[ahead].astype(np.float32)
    exposure = camera.expose(eye, placed, pose, scene.look, pixels)
    counts = count_points(placed, points[:, :3].astype(np.float64) + rig.KITTI_LIDAR.translation)
    shares = exposure.seen / np.maximum(exposure.alone, 1)
    matrix = projections(parameters)[2]
    views = [
        _view(one, matrix, float(share), int(count))
        for one, share, count in zip(placed, shares, counts, strict=True)
        if one.body.kind.category
    ]
    return exposure.picture, points, label(views, parameters.width, parameters.height)


def _view(one: Placement, projection: NDArray[np.float64], share: float, points: int) -> View:
    corners = _to_rectified(one.corners())
    pixels = corners @ projection[:, :3].T + projection[:, 3]
    pixels = pixels[:, :2] / pixels[:, 2:]
    length, width, height = one.body.size
    place = _to_rectified(np.array([[one.x, one.y, 0.0]]))[0]
    return View(
        type=one.body.kind.category,
        size=(height, width, length),
        location=(place[0], place[1], place[2]),
        # The heading (cos, sin) along ego x and y is (-sin, cos) along rectified x and z, and so (cos, -sin) of this.
        rotation_y=math.atan2(-math.cos(one.yaw), -math.sin(one.yaw)),
        box=np.concatenate([pixels.min(0), pixels.max(0)]),
        share=share,
        points=points,
    )


def label(views: list[View], width: int, height: int) -> Labels:
    """The labels of a frame: objects that both sensors see, then ``DontCare`` areas of the others in the picture.

    Args:
        views: all objects, before the camera.
        width: of the picture (pixels).
        height: of the picture (pixels).
    """
    edge = np.array([width, height, width, height], np.float64)
    known, unknown = [], []
    for view in views:
        inside = np.clip(view.box, 0, edge)
        area, whole = (np.prod(box[2:] - box[:2]) for box in (inside, view.box))
        # KITTI's boxes end at the last pixel.
        box = np.clip(view.box, 0, edge - 1)
        truncation = 1 - area / whole
        if area == 0:
            continue
        seen = view.points >= MINIMUM_POINTS and view.share >= MINIMUM_SHARE and view.location[2] <= FARTHEST
        if not seen or truncation > GREATEST_TRUNCATION:
            unknown.append(("DontCare", -1.0, -1, -10.0, box, _NO_BOX, _NO_PLACE, -10.0))
            continue
        occlusion = sum(view.share < limit for limit in OCCLUSION_LIMITS)
        alpha = math.remainder(view.rotation_y - math.atan2(view.location[0], view.location[2]), 2 * math.pi)
        known.append((view.type, truncation, occlusion, alpha, box, view.size, view.location, view.rotation_y))
    return _labels([*known, *unknown])


def _labels(rows: list[tuple[object, ...]]) -> Labels:
    """Rows of a label file, numbers to two digits as KITTI has them."""

    def column(position: int, *shape: int) -> NDArray[np.float64]:
        values = np.array([row[position] for row in rows], np.float64).reshape(len(rows), *shape)
        return np.round(values, 2) + 0.0  # no negative zeros

    return Labels(
        types=tuple(str(row[0]) for row in rows),
        truncation=column(1),
        occlusion=column(2).astype(np.int64),
        alpha=column(3),
        boxes_2d=column(4, 4),
        sizes=column(5, 3),
        locations=column(6, 3),
        rotation_y=column(7),
    )


def _to_rectified(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P, 3] points of the ego frame in the rectified frame."""
    x, y, z = (points - rig.KITTI_GREY.translation).T
    return np.stack([-y, -z, x], 1)
