"""KITTI's frames as a PyTorch data set: reads picture and points, transforms them, and batches the results.

Source of the transforms and their figures: kujason/avod (Ku et al., IROS 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from altermoma_ray.data.kitti import geometry
from altermoma_ray.data.kitti.batch import KittiBatch
from altermoma_ray.data.kitti.bev import bev_map
from altermoma_ray.data.kitti.dataroot import POINTS, frame_file, read_picture, read_points
from altermoma_ray.data.kitti.frames import Frame
from altermoma_ray.data.kitti.index import Index, learned
from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.errors import UserError

JITTER = 0.1
"""Standard deviation of the colour noise along each principal component, in standard deviations of the component."""


@dataclass(frozen=True, kw_only=True)
class KittiSample:
    """One entry of a :class:`KittiBatch`, with its shapes and frames; P points, M boxes."""

    frame: str
    image: Tensor
    """[3, H, W] float32."""
    bev: Tensor
    """[slices + 1, Z, X] float32."""
    points: Tensor
    """[P, 4] float32."""
    plane: Tensor
    """[4] float32."""
    projection: Tensor
    """[3, 4] float32."""
    image_size: Tensor
    """[2] int64 height, width of the original picture."""
    projection_original: Tensor
    """[3, 4] float32."""
    boxes: Tensor
    """[M, 7] float32."""
    labels: Tensor
    """[M] int64."""


class KittiDataset(Dataset[KittiSample]):
    """Frames of an index, ready for a model.

    Random draws depend on ``seed``, the epoch and the row alone: a sample is the same in every process.
    """

    def __init__(self, index: Index, rows: Sequence[int], inputs: KittiInputs, *, augment: bool, seed: int = 0) -> None:
        """Choose the frames.

        Args:
            index: where the frames are described.
            rows: rows of the index.
            inputs: the figures of the transforms.
            augment: whether frames are flipped, and colours varied, at random, as ``inputs`` allow.
            seed: of the random draws.
        """
        self.index, self.rows, self.inputs = index, list(rows), inputs
        self.augment, self.seed, self.epoch = augment, seed, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw other transforms from now on, in this process."""
        self.epoch = epoch

    def __getitem__(self, position: int) -> KittiSample:
        """Read and transform one frame.

        Raises:
            UserError: the picture or the points are missing or broken.
        """
        row = self.rows[position]
        frame = self.index.frame(row)
        flips, noise = self._draw(row)
        points = points_in_view(read_points(self.index.dataroot, frame.name), frame, self.inputs, self.index)
        picture = read_picture(self.index.dataroot, frame.name, frame.width, frame.height)
        image = resized(picture, self.inputs)
        if noise is not None:
            image = with_colour_noise(image, noise)
        plane, projection = frame.plane, frame.projection
        boxes, labels = learned(frame.labels, self.inputs.types)
        inside = in_area(boxes[:, 0], boxes[:, 2], self.inputs)
        boxes, labels = boxes[inside], labels[inside]
        if flips:
            image, points, boxes = image[:, ::-1], geometry.mirror_points(points), geometry.mirror_boxes(boxes)
            plane = geometry.mirror_plane(plane)
            projection = geometry.mirror_projection(projection, frame.width)
        high, wide = self.inputs.image_size
        return KittiSample(
            frame=frame.name,
            image=torch.from_numpy((image - np.float32(self.inputs.image_mean)).transpose(2, 0, 1).copy()),
            bev=torch.from_numpy(bev_map(points, plane, self.inputs)),
            points=torch.from_numpy(points),
            plane=_tensor(plane),
            projection=_tensor(geometry.resized_projection(projection, wide / frame.width, high / frame.height)),
            image_size=torch.tensor([frame.height, frame.width]),
            projection_original=_tensor(projection),
            boxes=_tensor(boxes),
            labels=torch.from_numpy(labels),
        )

    def _draw(self, row: int) -> tuple[bool, NDArray[np.float64] | None]:
        """Whether the frame is flipped, and the colour noise along three components, None for no noise."""
        if not self.augment:
            return False, None
        # A generator for each frame: loader processes share no state. All draws are made, used or not, so that one
        # option leaves the draws of the other alone.
        rng = np.random.default_rng((self.seed, self.epoch, row))
        flips, jitters = rng.random(2) < 0.5
        noise = JITTER * rng.standard_normal(3)
        return bool(flips and self.inputs.flip), noise if jitters and self.inputs.colour_jitter else None


def points_in_view(points: NDArray[np.float32], frame: Frame, inputs: KittiInputs, index: Index) -> NDArray[np.float32]:
    """[P, 4] the points of a LiDAR turn inside picture and area: rectified camera frame, reflectance.

    Args:
        points: [Q, 4] velodyne frame, reflectance.
        frame: its calibration and picture size.
        inputs: the area.
        index: names the files, for errors.

    Raises:
        UserError: no point lies within the picture.
    """
    places = geometry.transform(points, frame.to_rectified)
    pixels, depth = geometry.project(places, frame.projection)
    seen = (places[:, 2] > 0) & (depth > 0) & (pixels >= 0).all(1) & (pixels < (frame.width, frame.height)).all(1)
    if not seen.any():
        raise UserError(
            f"none of the points {frame_file(index.dataroot, POINTS, frame.name)} falls into the frame's picture; copy "
            "picture, points and calibration from KITTI again"
        )
    low, high = inputs.y_range
    seen &= in_area(places[:, 0], places[:, 2], inputs) & (places[:, 1] >= low) & (places[:, 1] < high)
    return np.concatenate([places[seen].astype(np.float32), points[seen, 3:]], axis=1)


def in_area(x: NDArray[np.float64], z: NDArray[np.float64], inputs: KittiInputs) -> NDArray[np.bool_]:
    """[P] whether places lie in the area seen from above."""
    (x0, x1), (z0, z1) = inputs.x_range, inputs.z_range
    return (x >= x0) & (x < x1) & (z >= z0) & (z < z1)


def resized(picture: Image.Image, inputs: KittiInputs) -> NDArray[np.float32]:
    """[H, W, 3] RGB 0..255 of the picture in the model's size."""
    height, width = inputs.image_size
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def with_colour_noise(image: NDArray[np.float32], noise: NDArray[np.float64]) -> NDArray[np.float32]:
    """The picture with noise along the principal components of its colours (Krizhevsky et al., NIPS 2012).

    Args:
        image: [H, W, 3] RGB 0..255.
        noise: [3] along each component, in its standard deviations; the weakest component first.
    """
    variances, components = np.linalg.eigh(np.cov(image.reshape(-1, 3).T.astype(np.float64)))
    # Each component's sign is the library's choice: one rule gives the same noise everywhere.
    signs = np.sign(components[np.abs(components).argmax(axis=0), range(3)])
    colour = components * signs @ (np.sqrt(np.maximum(variances, 0)) * noise)
    return np.clip(image + colour.astype(np.float32), 0, 255)


def collate(samples: Sequence[KittiSample]) -> KittiBatch:
    """Batch at least one sample."""
    return KittiBatch(
        frames=[sample.frame for sample in samples],
        images=torch.stack([sample.image for sample in samples]),
        bev=torch.stack([sample.bev for sample in samples]),
        points=[sample.points for sample in samples],
        planes=torch.stack([sample.plane for sample in samples]),
        projection=torch.stack([sample.projection for sample in samples]),
        image_sizes=torch.stack([sample.image_size for sample in samples]),
        projection_original=torch.stack([sample.projection_original for sample in samples]),
        boxes=[sample.boxes for sample in samples],
        labels=[sample.labels for sample in samples],
    )


def _tensor(values: NDArray[np.float64]) -> Tensor:
    # Rounded last, after all transforms in float64.
    return torch.from_numpy(values.astype(np.float32))
