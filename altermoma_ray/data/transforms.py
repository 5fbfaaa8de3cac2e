"""From a sensor's raw data to a model's input: figures (:class:`InputConfig`) and the transforms set by them.

Notation
    H, W            height and width of the model's picture
    (u, v)          continuous pixel coordinates: (0, 0) is the outer corner of the first pixel, whose centre is
                    (0.5, 0.5), and ``int(u)`` is the column of a point's pixel. Resizing by s is then
                    exactly u' = s u and flipping u' = W - u, the matrices of the published code. (nuScenes does not
                    say whether its intrinsics count from the corner or from the centre; the published code takes
                    them as they are, and so does this module.)
    rng             a random generator, or None for the fixed transform of evaluation

Figures and rules follow the published BEVFusion (Liu et al., ICRA 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler
from torch import Tensor

from altermoma_ray.data.nuscenes.rig import CAMERAS
from altermoma_ray.data.radar import RadarInputConfig
from altermoma_ray.data.raster import RasterConfig

Range = tuple[float, float]


class InputConfig(BaseModel):
    """The figures of a model's input; the defaults are the published BEVFusion-mit's.

    >>> InputConfig(sweeps=1, flip=False).image_size
    (256, 704)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cameras: tuple[str, ...] = CAMERAS
    """Channels of the cameras in the order in which the model sees them; weights do not depend on their number.

    nuScenes' six, the default, stand for all cameras of a data set: another rig is read with the same model.
    """
    image_size: tuple[int, int] = (256, 704)
    """Height and width of a picture, after resizing and cropping (pixels)."""
    resize_test: float = Field(default=0.48, gt=0)
    """Resize factor of evaluation."""
    resize_train: Range = (0.38, 0.55)
    """Range of the resize factor in training."""
    bottom_crop: Range = (0.0, 0.0)
    """Share of the resized picture's height cut off below: a range in training, its mean in evaluation."""
    image_rotation: float = Field(default=5.4, ge=0)
    """Pictures are rotated by up to this many degrees either way in training."""
    image_flip: bool = True
    """Whether pictures are mirrored at random in training."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green, blue on a scale of 0..1 (ImageNet)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green, blue on a scale of 0..1 (ImageNet)."""
    sweeps: int = Field(default=10, ge=1, le=11)
    """LiDAR sweeps in all, the keyframe's own included (20 a second)."""
    close_range: float = Field(default=1.0, ge=0)
    """Points of earlier sweeps with both |x| and |y| below this are the ego vehicle's own and dropped (m)."""
    point_range: tuple[float, float, float, float, float, float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
    """Least x, y, z and greatest x, y, z of points in the lidar frame (m); boxes are filtered by x and y."""
    rotation: float = Field(default=math.pi / 4, ge=0)
    """The scene is rotated about z by up to this angle either way in training (rad)."""
    scale: Range = (0.9, 1.1)
    """Range of the scene's scale in training."""
    translation: float = Field(default=0.5, ge=0)
    """Standard deviation of the scene's shift along each axis in training (m)."""
    flip: bool = True
    """Whether the scene is mirrored along x and along y at random in training."""
    raster: RasterConfig | None = None
    """Masks of the map that the model learns from; None reads no map."""
    radar: RadarInputConfig | None = None
    """The radar returns that the model reads; None reads no radar."""

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is absent: checkpoints of earlier releases lack it, and hashes are made of this text."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in ("raster", "radar")}

    @model_validator(mode="after")
    def _check(self) -> InputConfig:
        if not self.cameras or not all(self.cameras) or len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"`cameras` must be distinct names, at least one, but got {self.cameras}")
        if min(self.image_size) < 1:
            raise ValueError(f"`image_size` must be a positive height and width, but got {self.image_size}")
        for name, (low, high) in (("resize_train", self.resize_train), ("scale", self.scale)):
            if not 0 < low <= high:
                raise ValueError(f"`0 < low <= high` must hold for `{name}`, but got (low={low}, high={high})")
        if not 0 <= self.bottom_crop[0] <= self.bottom_crop[1] < 1:
            raise ValueError(f"`0 <= low <= high < 1` must hold for `bottom_crop`, but got {self.bottom_crop}")
        if not all(low < high for low, high in zip(self.point_range[:3], self.point_range[3:], strict=True)):
            raise ValueError(f"each axis of `point_range` must have low < high, but got {self.point_range}")
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive, but got {self.std}")
        return self


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """One drawn image transform: resize, then crop, then mirror, then rotate about the centre."""

    original: tuple[int, int]
    """Width and height of the original picture (pixels)."""
    resized: tuple[int, int]
    """Width and height after resizing (pixels)."""
    corner: tuple[int, int]
    """Left and top edge of the crop in the resized picture; parts of the crop outside of the picture are black."""
    size: tuple[int, int]
    """Width and height of the result (pixels)."""
    flip: bool = False
    degrees: float = 0.0
    """Counter-clockwise rotation as seen on the screen."""

    @classmethod
    def draw(cls, inputs: InputConfig, width: int, height: int, rng: np.random.Generator | None) -> ImageView:
        """A random view of a picture, or the fixed view of evaluation.

        Args:
            inputs: the figures of the transform.
            width: of the original picture (pixels).
            height: of the original picture (pixels).
            rng: a random generator, or None for evaluation.
        """
        target_height, target_width = inputs.image_size
        factor = inputs.resize_test if rng is None else rng.uniform(*inputs.resize_train)
        bottom = sum(inputs.bottom_crop) / 2 if rng is None else rng.uniform(*inputs.bottom_crop)
        # Rounding may put a product just below the whole number meant (100 · 0.29 is 28.999…), hence the 1e-6.
        resized = max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6))
        spare = max(0, resized[0] - target_width)
        # A drawn crop needs spare width; where the picture is narrower, the crop begins at its edge and is padded
        # black.
        left = spare // 2 if rng is None else int(rng.uniform(0, spare))
        return cls(
            original=(width, height),
            resized=resized,
            corner=(left, int((1 - bottom) * resized[1]) - target_height),
            size=(target_width, target_height),
            # Arguments are evaluated from top to bottom: exchanging these lines would exchange the draws of every
            # sample.
            flip=rng is not None and inputs.image_flip and bool(rng.integers(2)),
            degrees=0.0 if rng is None else rng.uniform(-inputs.image_rotation, inputs.image_rotation),
        )

    def matrix(self) -> np.ndarray:
        """[3, 3] original homogeneous pixel (u, v, 1) to pixel of the result."""
        # The ratio of whole sizes, not the drawn factor: the picture is resized to whole pixels.
        width, height = self.size
        scale = np.diag([self.resized[0] / self.original[0], self.resized[1] / self.original[1], 1.0])
        matrix = _shift(-self.corner[0], -self.corner[1]) @ scale
        if self.flip:
            # u' = W - u in continuous coordinates; with pixel centres at whole numbers the term would be W - 1.
            matrix = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # v points down: this is counter-clockwise
        return _shift(width / 2, height / 2) @ turn @ _shift(-width / 2, -height / 2) @ matrix

    def apply(self, image: Image.Image) -> Image.Image:
        """The transformed picture; antialiased bicubic resizing as in the published code."""
        left, top = self.corner
        image = image.resize(self.resized, Image.Resampling.BICUBIC)
        # Pillow fills the parts outside with black, which the crop of a small picture relies on.
        image = image.crop((left, top, left + self.size[0], top + self.size[1]))
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.rotate(self.degrees, Image.Resampling.BILINEAR) if self.degrees else image


def normalise(image: Image.Image, inputs: InputConfig) -> Tensor:
    """[3, H, W] float32 of an RGB picture: ``(value / 255 - mean) / std``."""
    # The copy also detaches the tensor from the picture's read-only memory, so that the rest may work in place.
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
    mean, std = torch.tensor(inputs.mean), torch.tensor(inputs.std)
    return pixels.sub_(255 * mean[:, None, None]).div_(255 * std[:, None, None]).contiguous()


def lidar_augmentation(inputs: InputConfig, rng: np.random.Generator | None) -> np.ndarray:
    """[4, 4] lidar frame to augmented lidar frame: rotate, shift, scale, mirror; the identity in evaluation."""
    matrix = np.eye(4)
    if rng is None:
        return matrix
    angle = rng.uniform(-inputs.rotation, inputs.rotation)
    matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    matrix[:3, 3] = rng.normal(0.0, inputs.translation, 3)
    # Scale after shift, so that the shift is scaled too, as in the published code.
    matrix[:3] *= rng.uniform(*inputs.scale)
    # Whole rows change sign: the mirror comes after rotation, shift and scale.
    for axis in (0, 1):
        if inputs.flip and rng.integers(2):
            matrix[axis] *= -1
    return matrix


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[P, 3 + k] points moved by a [4, 4] matrix; the k further values stay."""
    moved = points.copy()
    moved[:, :3] = points[:, :3] @ matrix[:3, :3].T.astype(points.dtype) + matrix[:3, 3].astype(points.dtype)
    return moved


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[M, 9] boxes (see :mod:`altermoma_ray.data.batch`) moved by a [4, 4] similarity about z, mirrors allowed.

    Sizes and velocities scale with the scene, as in the published code.
    """
    moved = transform_points(boxes, matrix)
    plane = matrix[:2, :2]
    # A mirror turns the sense of rotation around: moving the heading's vector is right where adding an angle is not.
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1) @ plane.T
    # The cube root of the determinant's absolute value is the scale, mirrored or not.
    moved[:, 3:6] = boxes[:, 3:6] * np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    moved[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    # Velocities are directions: turned, mirrored and scaled, but never shifted.
    moved[:, 7:9] = boxes[:, 7:9] @ plane.T
    return moved


def drop_close(points: np.ndarray, distance: float) -> np.ndarray:
    """The points outside the square |x|, |y| < ``distance`` around the sensor."""
    # A square, not a circle, as in the published code.
    return points[(np.abs(points[:, :2]) >= distance).any(axis=1)]


def points_in_range(points: np.ndarray, point_range: tuple[float, ...]) -> np.ndarray:
    """[P] bool: the point lies strictly inside ``point_range`` (x0, y0, z0, x1, y1, z1)."""
    # Compared in the points' own precision, as the published code does; a point on the edge decides the same way.
    low, high = np.asarray(point_range[:3], points.dtype), np.asarray(point_range[3:], points.dtype)
    return ((points[:, :3] > low) & (points[:, :3] < high)).all(axis=1)


def boxes_in_range(boxes: np.ndarray, point_range: tuple[float, ...]) -> np.ndarray:
    """[M] bool: the box's centre lies inside the range seen from above."""
    x, y = boxes[:, 0], boxes[:, 1]
    x0, y0, _, x1, y1, _ = point_range
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def choose_sweeps(available: int, wanted: int, rng: np.random.Generator | None) -> list[int]:
    """Numbers of the earlier sweeps to use, newest first: the newest ones, or a random choice in training.

        >>> choose_sweeps(available=10, wanted=3, rng=None)
        [0, 1, 2]

    Args:
        available: number of earlier sweeps.
        wanted: most sweeps to use.
        rng: a random generator, or None for evaluation.
    """
    if rng is None or available <= wanted:
        return list(range(min(available, wanted)))
    # Sorted, to stay newest first; without replacement, or a sweep would count twice.
    return sorted(rng.choice(available, size=wanted, replace=False).tolist())


def _shift(u: float, v: float) -> np.ndarray:
    return np.array([[1.0, 0.0, u], [0.0, 1.0, v], [0.0, 0.0, 1.0]])
