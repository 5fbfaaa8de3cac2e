"""Dense heat map targets: one Gaussian for each object (Law and Deng, CornerNet; Yin et al., CenterPoint).

Notation: ``M`` boxes, ``K`` classes, ``X × Y`` BEV cells; positions and sizes in cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gaussian_radius(length: NDArray[np.float64], width: NDArray[np.float64], min_overlap: float) -> NDArray[np.float64]:
    """How far (cells) a box may shift and still overlap itself by ``min_overlap``, as the published detectors count it.

    The radius is the least of three cases (one corner in and one out, both in, both out). As published, each root is
    ``(b + √Δ)/2`` for any leading coefficient of the quadratic; only the first root is therefore the exact solution.

    Args:
        length: [M] cells.
        width: [M] cells.
        min_overlap: intersection over union in (0, 1).

    Returns:
        [M] radii, not rounded.
    """
    area, perimeter = length * width, length + width
    shifted = area * (1 - min_overlap)
    cases = (
        (1.0, perimeter, shifted / (1 + min_overlap)),
        (4.0, 2 * perimeter, shifted),
        (4 * min_overlap, -2 * min_overlap * perimeter, -shifted),
    )
    # Not divided by 2a but by 2: released weights were trained on targets of this radius.
    roots = [(b + np.sqrt(b**2 - 4 * a * c)) / 2 for a, b, c in cases]
    return np.min(roots, axis=0)


def heatmap_target(
    centres: NDArray[np.float64],
    sizes: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    classes: int,
    shape: tuple[int, int],
    min_overlap: float,
    min_radius: int,
) -> NDArray[np.float32]:
    """The target heat map, [K, X, Y]: 1 at each centre's cell, the greater of two values where objects meet.

    Args:
        centres: [M, 2] cells, on the map.
        sizes: [M, 2] length and width in cells; a box without area leaves no trace.
        labels: [M] classes.
        classes: K.
        shape: (X, Y).
        min_overlap: see :func:`gaussian_radius`.
        min_radius: least radius in cells.
    """
    target = np.zeros((classes, *shape), dtype=np.float32)
    solid = (sizes > 0).all(axis=1)
    radii = np.maximum(gaussian_radius(sizes[:, 0], sizes[:, 1], min_overlap).astype(np.int64), min_radius)
    for (x, y), radius, label in zip(centres[solid].astype(np.int64), radii[solid], labels[solid], strict=True):
        columns = np.arange(max(x - radius, 0), min(x + radius + 1, shape[0]))
        rows = np.arange(max(y - radius, 0), min(y + radius + 1, shape[1]))
        deviation = (2 * radius + 1) / 6  # three standard deviations reach the patch's rim
        heat = np.exp(-((columns[:, None] - x) ** 2 + (rows - y) ** 2) / (2 * deviation**2))
        patch = target[label, columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1]
        # In place: `patch` is a view of the target, and the heat is rounded from double to single precision.
        np.maximum(patch, heat, out=patch, casting="same_kind")
    return target
