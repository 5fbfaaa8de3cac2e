"""Pictures: ground, sky and bodies, lit by a sun and dimmed by haze."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altermoma_ray.data.synthetic import rig, town
from altermoma_ray.data.synthetic.cues import HAZE
from altermoma_ray.data.synthetic.raycast import MISS, Placement, Window, cast
from altermoma_ray.data.synthetic.world import Look

NEAR = 0.2
"""Nothing nearer than this is drawn (m)."""
NOISE = 2.0
"""Standard deviation of the pixel noise, of 255."""
QUALITY = 90
_EDGES = np.array([(a, b) for a, b in itertools.combinations(range(8), 2)])
"""All pairs of corners: a superset of a box's edges, whose hull is the same."""


class Camera:
    """A mounted pinhole camera, with everything about its pixels common to all pictures.

    A ray has depth 1: t is the depth along the optical axis (m). The pixel in row i and column j looks through
    u = j + 0.5, v = i + 0.5.

    >>> Camera(rig.CAMERAS[0], width=64, height=36).rays.shape
    (3, 36, 64)
    """

    def __init__(self, mount: rig.Mount, width: int, height: int, haze: float = HAZE) -> None:
        self.mount, self.haze = mount, haze
        self.width, self.height = width, height
        self.intrinsic = rig.camera_intrinsic(mount, width, height)
        focal = self.intrinsic[0, 0]
        self.origin = np.array(mount.translation, np.float32)
        right = np.broadcast_to((np.arange(width) + 0.5 - width / 2) / focal, (height, width))
        down = np.broadcast_to(((np.arange(height) + 0.5 - height / 2) / focal)[:, None], (height, width))
        cos, sin = math.cos(mount.yaw), math.sin(mount.yaw)
        # Depth 1 along the optical axis, not length 1: t is then the depth, by which haze and near cut are reckoned.
        self.rays = np.stack([cos + sin * right, sin - cos * right, -down]).astype(np.float32)
        # A level camera sees ground in the lower half alone: ground and sky are two fixed blocks of the picture.
        self.horizon = (height + 1) // 2
        # Ground points of the lower half, in the ego frame.
        depth = (mount.translation[2] / down[self.horizon :]).astype(np.float32)
        self._ground_x = self.origin[0] + depth * self.rays[0, self.horizon :]
        self._ground_y = self.origin[1] + depth * self.rays[1, self.horizon :]
        # Computed once for each camera, as the car stays level: all pictures of a process share these arrays.
        self._ground_clear = np.exp(-depth / haze)[..., None]
        climb = -down[: self.horizon, :1] / np.hypot(1.0, right[: self.horizon])
        self._sky_height = np.clip(climb * 2.5, 0, 1).astype(np.float32)[..., None]

    def windows(self, corners: NDArray[np.float64]) -> list[Window]:
        """The rectangle of pixels around a box's projection; see :class:`raycast.RayGrid`."""
        x, y, z = (corners - self.origin).T
        cos, sin = math.cos(self.mount.yaw), math.sin(self.mount.yaw)
        points = np.stack([sin * x - cos * y, -z, cos * x + sin * y], 1)
        depth = points[:, 2]
        if depth.max() <= NEAR:
            return []
        if depth.min() < NEAR:  # cut the box where it leaves the space before the camera
            first, second = points[_EDGES[:, 0]], points[_EDGES[:, 1]]
            cut = (first[:, 2] < NEAR) != (second[:, 2] < NEAR)
            first, second = first[cut], second[cut]
            share = (NEAR - first[:, 2:]) / (second[:, 2:] - first[:, 2:])
            points = np.concatenate([points[depth >= NEAR], first + share * (second - first)])
        # The hull of projected corners holds the projected box, as a pinhole keeps lines straight.
        pixels = points[:, :2] / np.maximum(points[:, 2:], NEAR) * self.intrinsic[0, 0]
        middle = np.array([self.width, self.height]) / 2
        (u0, v0), (u1, v1) = pixels.min(0) + middle, pixels.max(0) + middle
        columns = slice(max(math.floor(u0), 0), min(math.ceil(u1), self.width))
        rows = slice(max(math.floor(v0), 0), min(math.ceil(v1), self.height))
        return [(rows, columns)] if columns.start < columns.stop and rows.start < rows.stop else []

    def background(self, pose: tuple[float, float, float], look: Look) -> NDArray[np.float32]:
        """[H, W, 3] RGB 0..255 of sky and ground, for the car's global pose."""
        picture = np.empty((self.height, self.width, 3), np.float32)
        picture[: self.horizon] = look.haze + self._sky_height * (look.zenith - look.haze)
        x, y, yaw = pose
        # Wrapping into the first tile keeps float32 exact enough.
        scale = np.float32(1 / town.CELL)
        cos, sin = np.float32(math.cos(yaw)) * scale, np.float32(math.sin(yaw)) * scale
        cells = town.ground()
        east = cos * self._ground_x - sin * self._ground_y + np.float32(x % town.TILE * scale)
        north = sin * self._ground_x + cos * self._ground_y + np.float32(y % town.TILE * scale)
        size = len(cells)
        # One flat index instead of a pair: NumPy looks up one array of numbers faster than two.
        index = np.floor(east).astype(np.int32) % size * size + np.floor(north).astype(np.int32) % size
        colour = look.ground[cells.ravel()[index]]
        picture[self.horizon :] = look.haze + self._ground_clear * (colour - look.haze)
        return picture


@dataclass(frozen=True)
class Exposure:
    """A picture, and the visible part of each body."""

    picture: NDArray[np.uint8]
    """[H, W, 3] RGB."""
    seen: NDArray[np.int64]
    """[bodies] pixels of the body."""
    alone: NDArray[np.int64]
    """[bodies] pixels of the body if nothing stood before it."""


def expose(
    camera: Camera, placed: list[Placement], pose: tuple[float, float, float], look: Look, random: np.random.Generator
) -> Exposure:
    """Take a picture.

    Args:
        camera: the camera.
        placed: the bodies in the ego frame, at the moment of the exposure.
        pose: x, y (m) and yaw (rad) of the car in the global frame, at the same moment.
        look: the scene's light.
        random: chooses the pixel noise.
    """
    hits = cast(camera, placed)
    picture = camera.background(pose, look)
    seen = np.zeros(len(placed), np.int64)
    if placed:
        found = np.flatnonzero(hits.surface.ravel() != MISS)
        surface = hits.surface.ravel()[found]
        depth = hits.distance.ravel()[found]
        colours, bands = _palette(camera, placed, pose, look)
        height = camera.origin[2] + depth * camera.rays[2].ravel()[found]
        band = bands[surface]
        in_band = (height > band[:, 0]) & (height < band[:, 1])
        clear = np.exp(-depth / camera.haze)[:, None]
        picture.reshape(-1, 3)[found] = look.haze + clear * (colours[surface, in_band.astype(np.int8)] - look.haze)
        # Three surfaces a part, one for each axis: see the notation of `raycast`.
        owner = np.repeat(np.arange(len(placed)), [3 * len(item.body.centres) for item in placed])
        seen = np.bincount(owner[surface], minlength=len(placed))
    picture *= look.brightness
    noise = _noise(camera.width * camera.height)
    # A slice of noise drawn once: a million normal numbers for every picture would cost more than they add.
    start = random.integers(len(noise) - camera.width * camera.height)
    picture += noise[start : start + camera.width * camera.height].reshape(camera.height, camera.width, 1)
    return Exposure(np.clip(picture, 0, 255).astype(np.uint8), seen, hits.alone)


def encode(picture: NDArray[np.uint8]) -> bytes:
    """The picture as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _palette(
    camera: Camera, placed: list[Placement], pose: tuple[float, float, float], look: Look
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lit colours of each surface outside and inside its band, [S, 2, 3], and the band's heights (m), [S, 2].

    Args:
        camera: decides which of two opposite faces is seen.
        placed: the bodies in the ego frame.
        pose: of the car; the sun's direction is global.
        look: the scene's light.
    """
    colours, bands = [], []
    for placement in placed:
        body = placement.body
        cos, sin = math.cos(placement.yaw), math.sin(placement.yaw)
        x, y = float(camera.origin[0]) - placement.x, float(camera.origin[1]) - placement.y
        camera_at = np.array([cos * x + sin * y, cos * y - sin * x])
        sun = look.sun - pose[2] - placement.yaw
        sides = np.sign(camera_at - body.centres[:, :2])  # which of the two opposite faces the camera sees
        # The third column stays 1: the top faces the sky, and no camera looks at a body from below.
        light = np.ones((len(body.centres), 3))
        light[:, :2] = 0.78 + 0.18 * sides * np.array([math.cos(sun), math.sin(sun)])
        colours.append(light[:, :, None, None] * body.colours[:, None])
        bands.append(np.repeat(body.bands, 3, 0))
    return np.concatenate([item.reshape(-1, 2, 3) for item in colours]).astype(np.float32), np.concatenate(bands)


@lru_cache(maxsize=1)
def _noise(pixels: int) -> NDArray[np.float32]:
    """Pixel noise, drawn once; pictures start at different places in it."""
    return np.random.default_rng(0).normal(0.0, NOISE, 2 * pixels).astype(np.float32)
