"""Crops of a map, resized to one size: the bilinear ``crop_and_resize`` of TensorFlow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def crop_and_resize(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Bilinear samples of a map on a grid of ``size`` × ``size`` points for each box; points off the map are 0.

    The grid's outer points lie on the box's edges, and 0 and 1 are the centres of the map's first and last cells.
    ``roi_align`` samples inside the bins of a box instead, and stretches its border; only shifted and widened boxes
    would give it these points.

    >>> ramp = torch.arange(5.0).expand(1, 5, 5)
    >>> crop_and_resize(ramp, torch.tensor([[0.25, 0.0, 0.75, 1.0]]), size=3)[0, 0, 0]
    tensor([1., 2., 3.])

    Args:
        features: [C, H, W].
        boxes: [R, 4] left, top, right, bottom as shares of the map's width and height.
        size: points of a crop along each side, 2 or more.

    Returns:
        [R, C, size, size].
    """
    steps = torch.linspace(0, 1, size, device=boxes.device, dtype=boxes.dtype)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    points = low + steps[:, None] * (high - low)  # [R, size, 2]: x, y
    # Comparisons with NaN are false: a box of a diverged network lies off the map.
    on_map = (points >= 0) & (points <= 1)
    points = torch.where(on_map, points, 0)
    shape = (len(boxes), size, size)
    x, y = points[:, None, :, 0].expand(shape), points[:, :, None, 1].expand(shape)
    grid = torch.stack((x, y), dim=-1).reshape(1, -1, size, 2) * 2 - 1
    # `align_corners`: -1 and 1 are the centres of the outer cells, as 0 and 1 are for the boxes.
    # Under mixed precision the map is half precision, too coarse for places: both take the finer of their types.
    kind = torch.promote_types(features.dtype, grid.dtype)
    sampled = functional.grid_sample(features[None].to(kind), grid.to(kind), mode="bilinear", align_corners=True)
    crops = sampled[0].reshape(len(features), *shape).transpose(0, 1)
    inside = on_map[:, None, :, 0] & on_map[:, :, None, 1]
    return torch.where(inside[:, None], crops, 0)
