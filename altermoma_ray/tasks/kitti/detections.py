"""Boxes as lines of KITTI's result files: each with its frame in the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from altermoma_ray.data.kitti.geometry import box_corners
from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.models.layers.ground_anchors import frames_of

NO_ANGLE = -10.0
"""Alpha of a detection whose observation angle is not computed."""
_UNKNOWN = -1


def labels_of(
    boxes: Tensor, scores: Tensor, types: Sequence[str], *, projection: Tensor, size: Tensor, least_score: float
) -> Labels:
    """The detections that are good enough and seen in the picture, in their order, on the CPU.

    A box's frame in the picture is the rectangle about its projected corners, clipped to the picture. The published
    code leaves out boxes whose frames take up more than 80 % of the picture's width or height; here they stay.

    Args:
        boxes: [B, 7] ``x, y, z`` of the bottom's centre, ``length, width, height``, ``rotation_y``.
        scores: [B].
        types: B names.
        projection: [3, 4] rectified camera frame to homogeneous pixel.
        size: [2] height and width of the picture (px).
        least_score: detections of a lower score are left out.
    """
    height, width = size.tolist()
    boxes, scores = boxes.cpu().double(), scores.cpu().double()
    frames = frames_of(torch.from_numpy(box_corners(boxes.numpy())), projection.cpu().double())
    left, top, right, bottom = frames.unbind(1)
    is_seen = (left < width) & (top < height) & (right > 0) & (bottom > 0)
    # Boxes of a diverged network: neither the file nor the evaluation takes a number that is not finite.
    is_finite = boxes.isfinite().all(dim=1) & frames.isfinite().all(dim=1)
    kept = (is_seen & is_finite & (scores >= least_score)).nonzero()[:, 0]
    limit = frames.new_tensor((width, height, width, height))
    found, count = boxes[kept].numpy(), len(kept)
    return Labels(
        types=tuple(types[row] for row in kept.tolist()),
        truncation=np.full(count, float(_UNKNOWN)),
        occlusion=np.full(count, _UNKNOWN, dtype=np.int64),
        alpha=np.full(count, NO_ANGLE),
        boxes_2d=torch.minimum(frames.clamp(min=0), limit)[kept].numpy(),
        sizes=found[:, [5, 4, 3]],
        locations=found[:, :3],
        rotation_y=found[:, 6],
        scores=scores[kept].numpy(),
    )
