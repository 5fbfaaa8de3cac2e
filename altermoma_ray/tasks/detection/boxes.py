"""Boxes as the detection head describes them, and back.

A box is a row of nine numbers in the lidar frame, as in :mod:`altermoma_ray.data.batch`. Its code has ten: ``x, y`` of
the centre in BEV cells from the map's corner, ``z`` (m), log of ``length, width, height`` (log m), sine and cosine of
the yaw, ``vx, vy`` (m/s). A box's z is its centre's. A code's z belongs to the point whose height the head's weights
learned; a release may have put this point at the bottom or at the top
(:attr:`altermoma_ray.models.configurations.transfusion.TransFusionHeadConfig.height`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from altermoma_ray.models.configurations.transfusion import Height

CODE_PARTS = ("center", "height", "dim", "rot", "vel")
"""The head's outputs whose concatenation, in this order, is a code."""

LOG_SIZE_LIMIT = 10.0
"""Decoded log sizes are clamped to ± this limit: a diverged network then still gives finite, positive sizes."""

_ABOVE_CENTRE = {"bottom": -0.5, "centre": 0.0, "top": 0.5}
"""Where a code's z lies above the box's centre, in shares of the box's height."""


@dataclass(frozen=True, kw_only=True)
class BevGrid:
    """Where a BEV map lies in the lidar frame.

    Example: a map of 100 m × 100 m, centred on the sensor::

        >>> grid = BevGrid(origin=(-50.0, -50.0), cell=(0.5, 0.5), shape=(200, 200))
        >>> grid.extent
        (100.0, 100.0)
    """

    origin: tuple[float, float]
    """x, y (m) of the outer corner of the first cell."""
    cell: tuple[float, float]
    """Size of a cell along x and y, in metres."""
    shape: tuple[int, int]
    """Number of cells along x and y."""

    @property
    def extent(self) -> tuple[float, float]:
        """Length of the map along x and y, in metres."""
        return self.cell[0] * self.shape[0], self.cell[1] * self.shape[1]

    def contains(self, boxes: Tensor) -> Tensor:
        """Whether the centres of boxes [M, 9] lie on the map, [M] bool."""
        # Compared in cells, as the codes hold the centres, so that rounding cannot place a target outside the map.
        cells = encode_boxes(boxes, self)[:, :2]
        return ((cells >= 0) & (cells < cells.new_tensor(self.shape))).all(dim=1)

    def occupied(self, boxes: Tensor) -> Tensor:
        """The occupied cells [X, Y], bool: their centre lies in one of the boxes [M, 9], or a box's centre in them."""
        axes = [
            origin + cell * (torch.arange(count, device=boxes.device) + 0.5)
            for origin, cell, count in zip(self.origin, self.cell, self.shape, strict=True)
        ]
        x, y = torch.meshgrid(*axes, indexing="ij")
        found = torch.zeros(self.shape, dtype=torch.bool, device=boxes.device)
        for box in boxes:
            along, across = x - box[0], y - box[1]
            # A pedestrian is smaller than a cell and may cover no cell's centre; its own centre still marks a cell.
            centre = (along.abs() <= self.cell[0] / 2) & (across.abs() <= self.cell[1] / 2)
            cosine, sine = box[6].cos(), box[6].sin()
            length, width = along * cosine + across * sine, across * cosine - along * sine
            found |= centre | ((length.abs() <= box[3] / 2) & (width.abs() <= box[4] / 2))
        return found


def encode_boxes(boxes: Tensor, grid: BevGrid, height: Height = "centre") -> Tensor:
    """Codes [M, 10] of boxes [M, 9]; unknown (NaN) velocities stay NaN.

    Args:
        boxes: rows of nine numbers in the lidar frame.
        grid: the BEV map in whose cells the centres are counted.
        height: the point of a box whose z its code holds.
    """
    centre = (boxes[:, :2] - boxes.new_tensor(grid.origin)) / boxes.new_tensor(grid.cell)
    z = boxes[:, 2:3] + _ABOVE_CENTRE[height] * boxes[:, 5:6]
    yaw = boxes[:, 6:7]
    return torch.cat((centre, z, boxes[:, 3:6].log(), yaw.sin(), yaw.cos(), boxes[:, 7:9]), dim=1)


def decode_boxes(codes: Tensor, grid: BevGrid, height: Height = "centre") -> Tensor:
    """Boxes [..., 9] of codes [..., 10]; the yaw lies in (-π, π].

    Args:
        codes: rows of ten numbers, as :func:`encode_boxes` gives them.
        grid: the BEV map in whose cells the centres are counted.
        height: the point of a box whose z its code holds.
    """
    centre = codes[..., :2] * codes.new_tensor(grid.cell) + codes.new_tensor(grid.origin)
    size = codes[..., 3:6].clamp(-LOG_SIZE_LIMIT, LOG_SIZE_LIMIT).exp()
    z = codes[..., 2:3] - _ABOVE_CENTRE[height] * size[..., 2:3]
    # Nothing holds a predicted sine and cosine to the unit circle; their angle is defined all the same.
    yaw = torch.atan2(codes[..., 6:7], codes[..., 7:8])
    return torch.cat((centre, z, size, yaw, codes[..., 8:10]), dim=-1)


def output_codes(outputs: Mapping[str, Tensor]) -> Tensor:
    """The codes [N, P, 10] in the head's outputs."""
    return torch.cat([outputs[part] for part in CODE_PARTS], dim=1).transpose(1, 2)
