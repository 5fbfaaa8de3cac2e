"""KITTI's text files of one frame besides its objects: calibration and ground plane.

Frames: *velodyne* is x forward, y left, z up; *camera* is the grey left camera before rectification; the *rectified
camera frame* is x right, y down, z forward; pixels are (u right, v down) of the colour picture ``image_2``.

Source of the layout: ``readme.txt`` of KITTI's object development kit; of the planes: kujason/avod.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.errors import UserError

Floats = NDArray[np.float64]

DEFAULT_PLANE = (0.0, -1.0, 0.0, 1.65)
"""The ground of a level car whose camera is 1.65 m high, for data sets without planes."""
NO_PLANES = f"no planes in the data set: the ground is taken to be level, {DEFAULT_PLANE[3]:g} m below the camera"
_ENTRIES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
"""The entries that are read, and their shapes; a file has further ones."""
_ROTATION_TOLERANCE = 0.01
_LEVEL = 0.5
"""Least share of the vertical in a plane's normal."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """From the LiDAR to the picture.

    A point p of the LiDAR, homogeneous, has the pixel (u, v) = (a / c, b / c) with (a, b, c) = ``projection`` · (q, 1)
    and q = ``to_rectified`` · p.
    """

    projection: Floats
    """[3, 4] rectified camera frame to homogeneous pixel (P2)."""
    to_rectified: Floats
    """[3, 4] velodyne frame to rectified camera frame: R0_rect · Tr_velo_to_cam."""


def parse_calibration(text: str, where: str) -> Calibration:
    """The calibration in a file's text.

    Args:
        text: of the file.
        where: the file's address, for errors.

    Raises:
        UserError: an entry is missing, has another number of values, or cannot be a calibration.
    """
    lines = dict(line.split(":", 1) for line in text.split("\n") if ":" in line)
    found = {}
    for name, shape in _ENTRIES.items():
        if name not in lines:
            raise UserError(f"{where} has no {name}; copy the calibration from KITTI again")
        values = _numbers(lines[name].split())
        if values is None or values.size != math.prod(shape):
            raise UserError(
                f"{where} has {name} with {len(lines[name].split())} values, but must have {math.prod(shape)} finite "
                "numbers; copy the calibration from KITTI again"
            )
        found[name] = values.reshape(shape)
    for name in ("R0_rect", "Tr_velo_to_cam"):
        rotation = found[name][:, :3]
        # A matrix and its transpose differ, but are both rotations: only a wrong scale or a mirror shows here.
        off = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if off > _ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
            raise UserError(f"{where} has no rotation in {name}; copy the calibration from KITTI again")
    if min(found["P2"][0, 0], found["P2"][1, 1], found["P2"][2, 2]) <= 0:
        raise UserError(f"{where} has no positive focal lengths in P2; copy the calibration from KITTI again")
    return Calibration(found["P2"], found["R0_rect"] @ found["Tr_velo_to_cam"])


def parse_plane(text: str, where: str) -> Floats:
    """The ground plane in a file's text: [4] a, b, c, d, with a normal of length 1 that points up (b < 0).

    >>> text = "# Matrix\\nWIDTH 4\\nHEIGHT 1\\n0 2 0 -3.3\\n"
    >>> (parse_plane(text, "planes/000000.txt") + 0.0).tolist()
    [0.0, -1.0, 0.0, 1.65]

    Args:
        text: of the file: three lines of heading, and four numbers.
        where: the file's address, for errors.

    Raises:
        UserError: the fourth line has other than four finite numbers, or the plane is no ground.
    """
    lines = text.rstrip().split("\n")
    values = _numbers(lines[3].split()) if len(lines) == 4 else None
    if values is None or values.size != 4:
        raise UserError(f"{where} is no plane; it must have three lines of heading and a fourth with a, b, c and d")
    length = float(np.linalg.norm(values[:3]))
    if length == 0 or abs(values[1]) < _LEVEL * length:
        raise UserError(f"{where} has plane {lines[3].strip()}, which is no ground; its b must outweigh a and c")
    return values / length * (-1.0 if values[1] > 0 else 1.0)


def _numbers(values: list[str]) -> Floats | None:
    """Finite numbers, or None where a value is none."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None
