"""Spinning LiDARs, after the HDL-32E of nuScenes and the HDL-64E of KITTI."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.synthetic import rig, town
from altermoma_ray.data.synthetic.raycast import MISS, Placement, Window, cast

RANGE = 60.0
RANGE_NOISE = 0.02
"""Standard deviation (m)."""
DROP_OUT = 0.05
"""Share of the returns from bodies that is lost."""
GROUND_RETURN = 3.5
"""The ground answers for certain up to this range (m), then ever less as rays graze it: (GROUND_RETURN / range)."""
GROUND_REFLECTIVITY = 14.0
"""Of all ground alike, unless a data set asks for the ground's own reflectivities."""
SURFACE_REFLECTIVITY = {"grass": 35.0, "road": 8.0, "walkway": 22.0, "carpark": 14.0, "white": 120.0, "yellow": 80.0}
"""Of each surface of the ground; road paint is made to shine."""
INTENSITY_NOISE = 8.0


@dataclass(frozen=True)
class Spinner:
    """A model of LiDAR, and its place on the car."""

    mount: rig.Mount
    beams: int
    elevation: tuple[float, float]
    """Of the lowest beam, ring 0, and of the highest (degrees)."""


HDL32 = Spinner(rig.LIDAR, 32, (-30.67, 10.67))
HDL64 = Spinner(rig.KITTI_LIDAR, 64, (-24.8, 2.0))


class Lidar:
    """The rays of one turn: [ring, azimuth], of unit length; t is therefore the range (m).

    >>> Lidar(azimuths=90).rays.shape
    (3, 32, 90)
    """

    def __init__(self, azimuths: int, spinner: Spinner = HDL32) -> None:
        self.azimuths, self.beams = azimuths, spinner.beams
        self.origin = np.array(spinner.mount.translation, np.float32)
        elevation = np.radians(np.linspace(*spinner.elevation, self.beams))[:, None]
        azimuth = (np.arange(azimuths) + 0.5) * (2 * math.pi / azimuths)
        flat = np.cos(elevation)
        self.rays = np.stack(
            [flat * np.cos(azimuth), flat * np.sin(azimuth), np.broadcast_to(np.sin(elevation), (self.beams, azimuths))]
        ).astype(np.float32)
        with np.errstate(divide="ignore"):
            ground = np.where(self.rays[2] < 0, -self.origin[2] / self.rays[2], np.inf)
        self.ground = ground.astype(np.float32)
        """[ring, azimuth] range of the bare ground; infinite where the ray meets none."""
        self.open = ~self._roof()
        """[ring, azimuth] whether the ray leaves the car at all."""

    def _roof(self) -> NDArray[np.bool_]:
        """[ring, azimuth] whether the ray meets the car's own roof, and never returns."""
        x0, y0, x1, y1, height = rig.ROOF
        with np.errstate(divide="ignore", invalid="ignore"):
            drop = (height - self.origin[2]) / self.rays[2]
            x, y = self.origin[0] + drop * self.rays[0], self.origin[1] + drop * self.rays[1]
        return (self.rays[2] < 0) & (x > x0) & (x < x1) & (y > y0) & (y < y1)

    def windows(self, corners: NDArray[np.float64]) -> list[Window]:
        """All rings and the columns around a box; see :class:`raycast.RayGrid`."""
        x, y = (corners[:4, :2] - self.origin[:2]).T
        # Angles are taken about the box's middle, and only then wrapped: a box across the seam at ±180 degrees stays
        # whole.
        middle = math.atan2(y.sum(), x.sum())
        turn = 2 * math.pi
        across = (np.arctan2(y, x) - middle + math.pi) % turn - math.pi
        first = math.floor((middle + across.min()) % turn / turn * self.azimuths - 0.5)
        last = first + math.ceil(float(np.ptp(across)) / turn * self.azimuths) + 2
        rings = slice(0, self.beams)
        # A box across the first column needs two windows, as columns do not wrap.
        if first < 0:
            return [(rings, slice(0, last)), (rings, slice(self.azimuths + first, self.azimuths))]
        if last > self.azimuths:
            return [(rings, slice(first, self.azimuths)), (rings, slice(0, last - self.azimuths))]
        return [(rings, slice(first, last))]


def scan(
    lidar: Lidar,
    placed: list[Placement],
    random: np.random.Generator,
    pose: tuple[float, float, float] | None = None,
) -> NDArray[np.float32]:
    """One turn of the LiDAR of nuScenes: [points, 5] x, y, z (m, LiDAR frame), intensity 0..255, ring.

    Args:
        lidar: the rays.
        placed: the bodies around the car.
        random: draws noise and lost returns.
        pose: see :func:`measure`.
    """
    x, y, z, intensity, rings = measure(lidar, placed, random, pose).T
    # Ego axes (forward, left) to the LiDAR's (right, forward).
    return np.stack([-y, x, z, intensity, rings], 1)


def measure(
    lidar: Lidar,
    placed: list[Placement],
    random: np.random.Generator,
    pose: tuple[float, float, float] | None = None,
) -> NDArray[np.float32]:
    """One turn, as if in an instant: [points, 5] x, y, z (m, ego axes, from the LiDAR), intensity 0..255, ring.

    All draws are made for every ray, met or not: the same generator gives the same noise with fewer bodies.

    Args:
        lidar: the rays.
        placed: the bodies around the car.
        random: draws noise and lost returns.
        pose: x, y (m) and yaw of the car in the global frame, for a ground whose surfaces differ in reflectivity; None
            gives the ground one reflectivity.
    """
    shape = lidar.ground.shape
    range_noise, intensity_noise = random.standard_normal((2, *shape), np.float32)
    luck = random.random(shape, np.float32)
    hits = cast(lidar, placed)
    on_body = hits.surface != MISS
    reflectivity = np.full(shape, GROUND_REFLECTIVITY, np.float32) if pose is None else _ground(lidar, pose)
    if placed:
        # One entry a surface: each part of a body has three, and all parts share the body's reflectivity.
        each = np.repeat([item.body.reflectivity for item in placed], [3 * len(item.body.centres) for item in placed])
        reflectivity[on_body] = each.astype(np.float32)[hits.surface[on_body]]
    distance = np.where(on_body, hits.distance, lidar.ground)
    # The ground's chance falls with range, as grazing rays return little.
    chance = np.where(on_body, np.float32(1 - DROP_OUT), GROUND_RETURN / np.maximum(distance, GROUND_RETURN))
    returned = lidar.open & (distance < RANGE) & (luck < chance)
    rings, _ = np.nonzero(returned)
    length = distance[returned] + RANGE_NOISE * range_noise[returned]
    x, y, z = lidar.rays[:, returned] * length
    # Fades with range, as in haze.
    intensity = reflectivity[returned] * np.exp(-length / 100) + INTENSITY_NOISE * intensity_noise[returned]
    return np.stack([x, y, z, np.clip(np.round(intensity), 0, 255), rings.astype(np.float32)], 1).astype(np.float32)


def _ground(lidar: Lidar, pose: tuple[float, float, float]) -> NDArray[np.float32]:
    """[ring, azimuth] reflectivity of the bare ground met by each ray; any number for a ray above the horizon."""
    x, y, yaw = pose
    # Infinite lengths would give NaN positions, and casting NaN to a cell's number is undefined.
    length = np.where(np.isfinite(lidar.ground), lidar.ground, 0)
    ahead, left = (lidar.rays[axis] * length + lidar.origin[axis] for axis in (0, 1))
    cos, sin = math.cos(yaw), math.sin(yaw)
    surface = town.ground_at(x + cos * ahead - sin * left, y + sin * ahead + cos * left)
    return np.array([SURFACE_REFLECTIVITY[name] for name in town.SURFACES], np.float32)[surface]
