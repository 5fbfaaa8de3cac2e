"""Casting a grid of rays at the bodies of a scene: one geometry for cameras and LiDAR.

Notation: a ray is o + t d, with o the sensor's origin and d one entry of the grid, both in the ego frame; t is in
units of d (depth for cameras, metres for the LiDAR). H, W: rows and columns of the grid. A *surface* is a part's side:
3 * part + axis, parts counted over all bodies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.synthetic.world import Body

Window = tuple[slice, slice]
MISS = -1


class RayGrid(Protocol):
    """Rays of a sensor, and the part of them which a body can meet."""

    origin: NDArray[np.float32]
    """[3], ego frame."""
    rays: NDArray[np.float32]
    """[3, H, W], ego frame."""

    def windows(self, corners: NDArray[np.float64]) -> list[Window]:
        """Rows and columns whose rays may meet the box with the given corners ([8, 3], ego frame)."""
        ...


@dataclass(frozen=True)
class Hits:
    """The first surfaces met by a grid of rays."""

    distance: NDArray[np.float32]
    """[H, W] t of the hit; infinite without one."""
    surface: NDArray[np.int16]
    """[H, W]; ``MISS`` without a hit."""
    alone: NDArray[np.int64]
    """[bodies] rays which would meet the body if it stood alone."""


@dataclass(frozen=True)
class Placement:
    """A body's pose in the ego frame at the moment of the exposure."""

    body: Body
    x: float
    y: float
    yaw: float

    def corners(self) -> NDArray[np.float64]:
        """[8, 3] of the annotated box: the four at the bottom, then the four at the top (m)."""
        length, width, height = self.body.size
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        ahead = np.array([1, -1, -1, 1]) * length / 2
        left = np.array([1, 1, -1, -1]) * width / 2
        corners = np.zeros((8, 3))
        corners[:4, 0] = corners[4:, 0] = self.x + cos * ahead - sin * left
        corners[:4, 1] = corners[4:, 1] = self.y + sin * ahead + cos * left
        corners[4:, 2] = height
        return corners


def placements(bodies: tuple[Body, ...], pose: tuple[float, float, float], time: float) -> list[Placement]:
    """The bodies in the ego frame, at a moment.

    Args:
        bodies: of the scene.
        pose: x, y (m) and yaw (rad) of the car in the global frame, at the same moment.
        time: the moment (s).
    """
    ego_x, ego_y, ego_yaw = pose
    cos, sin = math.cos(ego_yaw), math.sin(ego_yaw)
    placed = []
    for body in bodies:
        x, y = body.position(time)
        x, y = x - ego_x, y - ego_y
        placed.append(Placement(body, cos * x + sin * y, cos * y - sin * x, body.yaw - ego_yaw))
    return placed


def cast(grid: RayGrid, placed: list[Placement]) -> Hits:
    """Find the first surface along every ray."""
    shape = grid.rays.shape[1:]
    distance = np.full(shape, np.inf, np.float32)
    # int16 holds 10,000 parts, far more than a scene has.
    surface = np.full(shape, MISS, np.int16)
    alone = np.zeros(len(placed), np.int64)
    first_part = 0
    # Body after body into one depth buffer, each in its own windows alone: most rays never meet the costly test.
    for number, placement in enumerate(placed):
        for window in grid.windows(placement.corners()):
            met, side = _cast_body(grid.origin, grid.rays[:, window[0], window[1]], placement)
            # Counted before the depth test: hidden pixels count as well, for the share of a body in view.
            alone[number] += np.count_nonzero(side >= 0)
            nearer = met < distance[window]
            np.copyto(distance[window], met, where=nearer)
            np.copyto(surface[window], side + np.int16(3 * first_part), where=nearer)
        first_part += len(placement.body.centres)
    return Hits(distance, surface, alone)


def _cast_body(
    origin: NDArray[np.float32], rays: NDArray[np.float32], placement: Placement
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Slab test (Kay and Kajiya 1986) of a window's rays against the parts: t of the first hit and its surface.

    Args:
        origin: [3] of the rays, ego frame.
        rays: [3, H, W] of the window, ego frame.
        placement: the body.
    """
    cos, sin = np.float32(math.cos(placement.yaw)), np.float32(math.sin(placement.yaw))
    from_x, from_y = float(origin[0]) - placement.x, float(origin[1]) - placement.y
    # The ray is turned into the body's frame, where all parts are boxes along the axes.
    start = np.array([cos * from_x + sin * from_y, cos * from_y - sin * from_x, origin[2]], np.float32)
    inverse = np.stack([cos * rays[0] + sin * rays[1], cos * rays[1] - sin * rays[0], rays[2]])
    np.copyto(inverse, np.float32(1e-9), where=inverse == 0)  # a ray along a slab has no 0 * infinity then
    np.divide(np.float32(1), inverse, out=inverse)
    extent = np.abs(inverse)
    distance = np.full(rays.shape[1:], np.inf, np.float32)
    surface = np.full(rays.shape[1:], MISS, np.int16)
    for part, (centre, half) in enumerate(zip(placement.body.centres, placement.body.halves, strict=True)):
        middle = inverse * (centre - start)[:, None, None]
        reach = extent * half[:, None, None]
        enter = middle - reach
        leave = middle + reach
        met = np.maximum(np.maximum(enter[0], enter[1]), enter[2])
        hit = (met < np.minimum(np.minimum(leave[0], leave[1]), leave[2])) & (met > 0) & (met < distance)
        # The slab entered last is the side met: the ray is then inside all three slabs.
        axis = np.where(enter[0] == met, 0, np.where(enter[1] == met, 1, 2)).astype(np.int16)
        np.copyto(distance, met, where=hit)
        np.copyto(surface, axis + np.int16(3 * part), where=hit)
    return distance, surface
