"""The bird's-eye map of AVOD: height slices and density of the points over the ground.

Notation: h is a point's height over the ground plane (m); s_k the bottom of slice k and t its thickness (m); N the
number of a cell's points. Slice k of a cell is the greatest (h - s_k) / t of the cell's points with
s_k <= h < s_k + t, and 0 without one. The density is min(1, log(N + 1) / log 16), of the points of all slices.

Source: Ku et al., IROS 2018, section III-A, and kujason/avod. There the "greatest" height is that of the highest point
after heights are rounded down to a cell; here it is the greatest itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.kitti.inputs import KittiInputs

FULL = 16
"""A cell with one point fewer than this has density 1."""


def bev_map(points: NDArray[np.float32], plane: NDArray[np.float64], inputs: KittiInputs) -> NDArray[np.float32]:
    """[slices + 1, Z, X] map: row 0 is the far end, column 0 the least x; the density is the last channel.

    Args:
        points: [P, 3 or more] x, y, z first, rectified camera frame, inside the area.
        plane: [4] a, b, c, d with a normal of length 1 that points up.
        inputs: the figures of the map.
    """
    rows, columns = inputs.bev_size
    places = points[:, :3].astype(np.float64)
    height = places @ plane[:3] + plane[3]
    inside = (height >= inputs.slice_low) & (height < inputs.slice_high)
    places, height = places[inside], height[inside]
    column = np.floor((places[:, 0] - inputs.x_range[0]) / inputs.cell).astype(np.int64).clip(0, columns - 1)
    row = np.floor((places[:, 2] - inputs.z_range[0]) / inputs.cell).astype(np.int64).clip(0, rows - 1)
    cell = (rows - 1 - row) * columns + column
    thickness = (inputs.slice_high - inputs.slice_low) / inputs.slices
    over = (height - inputs.slice_low) / thickness
    # Clipped: division may round a height just below the top up to the next slice.
    number = np.floor(over).astype(np.int64).clip(0, inputs.slices - 1)
    slices = np.zeros(inputs.slices * rows * columns)
    np.maximum.at(slices, number * rows * columns + cell, over - number)
    count = np.bincount(cell, minlength=rows * columns)
    density = np.minimum(1.0, np.log(count + 1) / math.log(FULL))
    return np.concatenate([slices, density]).reshape(inputs.bev_channels, rows, columns).astype(np.float32)
