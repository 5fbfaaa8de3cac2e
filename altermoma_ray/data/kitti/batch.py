"""A model's input on KITTI: a batch of frames as tensors.

Frames: the *rectified camera frame* is x right, y down, z forward (m), with its origin at the grey left camera;
pixels are (u right, v down). Boxes are rows of seven numbers in this frame: ``x, y, z`` of the bottom's centre (m),
``length, width, height`` (m), ``rotation_y`` (rad; 0 heads along +x, and -pi / 2 along +z).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from altermoma_ray.data.batching import SampleBatch


@dataclass(kw_only=True)
class KittiBatch(SampleBatch):
    """N frames; lists have one entry a frame, tensors lead with N.

    Example: the first of four frames alone, on a GPU::

        single = batch.samples(0, 1).to("cuda")
        single.bev.shape  # (1, 6, 700, 800)
    """

    frames: list[str]
    """Names of the frames, such as ``000042``."""
    images: Tensor
    """[N, 3, H, W] float32 RGB, resized; the mean is subtracted, nothing is divided."""
    bev: Tensor
    """[N, slices + 1, Z, X] float32 bird's-eye maps: row 0 is the far end (greatest z), column 0 the least x; the
    slices from the lowest to the highest, then the density."""
    points: list[Tensor]
    """[P, 4] float32 each: x, y, z (m, rectified camera frame) inside the picture and the area, reflectance 0..1."""
    planes: Tensor
    """[N, 4] float32 a, b, c, d of the ground a x + b y + c z + d = 0; (a, b, c) is of length 1 and points up (b < 0),
    so that the sum is the height over the ground (m)."""
    projection: Tensor
    """[N, 3, 4] float32 rectified camera frame to homogeneous pixel of ``images``."""
    image_sizes: Tensor
    """[N, 2] int64 height and width of the original picture (pixels)."""
    projection_original: Tensor
    """[N, 3, 4] float32 rectified camera frame to homogeneous pixel of the original picture, flipped where the sample
    is."""
    boxes: list[Tensor]
    """[M, 7] float32 each, of the classes to learn; see the module's text."""
    labels: list[Tensor]
    """[M] int64 each, positions in :attr:`.inputs.KittiInputs.types`."""
