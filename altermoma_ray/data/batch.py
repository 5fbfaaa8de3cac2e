"""A model's input, a batch of samples as tensors, and a detector's result, detections.

Frames: *lidar* is the LiDAR at the sample's keyframe, x right, y forward, z up as nuScenes mounts it; *camera* is
x right, y down, z forward; pixels are (u right, v down). Boxes are rows of nine numbers in the lidar frame:
``x, y, z`` of the geometric centre (m), ``length, width, height`` (m), ``yaw`` (rad, from +x to +y), ``vx, vy`` (m/s).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from altermoma_ray.data.batching import SampleBatch


@dataclass(kw_only=True)
class Batch(SampleBatch):
    """N samples; lists have one entry a sample, tensors lead with N.

    Example: the first of four samples alone, on a GPU::

        single = batch.samples(0, 1).to("cuda")
        single.images.shape  # (1, C, 3, H, W)
    """

    tokens: list[str]
    """Sample tokens."""
    images: Tensor
    """[N, C, 3, H, W] float32, RGB, normalised, augmented."""
    points: list[Tensor]
    """[P, 5] float32 each: x, y, z (m, augmented lidar frame), intensity 0..255, time lag (s, 0 for the keyframe)."""
    camera_intrinsics: Tensor
    """[N, C, 3, 3] of the original pictures."""
    camera_to_lidar: Tensor
    """[N, C, 4, 4] camera frame to un-augmented lidar frame, ego motion between the two exposures included."""
    image_augmentation: Tensor
    """[N, C, 3, 3] original homogeneous pixel (u, v, 1) to pixel of ``images``."""
    lidar_augmentation: Tensor
    """[N, 4, 4] lidar frame to augmented lidar frame."""
    boxes: list[Tensor]
    """[M, 9] float32 each, augmented lidar frame; see the module's text."""
    labels: list[Tensor]
    """[M] int64 each, indices into ``CLASSES``."""
    # Defaults for the last fields alone: callers without a map or radars need not know of them.
    rasters: list[Tensor] = field(default_factory=list)
    """[class, x, y] bool each: the map's masks about the LiDAR; empty where the model's inputs ask for none."""
    radar: list[Tensor] = field(default_factory=list)
    """[P, 45] float32 each: encoded returns (:mod:`altermoma_ray.data.radar`) in the augmented lidar frame; empty where
    the model's inputs ask for none."""


@dataclass(kw_only=True)
class Detections:
    """The boxes found in one sample, best first."""

    boxes: Tensor
    """[K, 9] in the lidar frame."""
    scores: Tensor
    """[K] in 0..1."""
    labels: Tensor
    """[K] int64, indices into ``CLASSES``."""
