"""LiDAR files: rows of float32 without any header; only their numbers tell one column from another.

A file of four columns whose size happens to divide by five columns could be read without complaint, as points which
never were. Each file's numbers are therefore checked against the possible values of its columns.

Example: a file with a time in a sixth column::

    points = decode_points(file, data, ("x", "y", "z", "intensity", "ring", "time"))  # [P, 5], without the time
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from altermoma_ray.data.nuscenes.reading import PUBLISHED_COLUMNS
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_OPTION = "--lidar-columns"
_FARTHEST = 1000.0  # metres; no LiDAR sees as far, and coordinates in millimetres or of another type lie beyond
_BRIGHTEST, _LAST_RING = 255, 255
_TOLERATED = 0.01  # share of a file's points with impossible numbers
_FINITE = 0.1  # least share of points with coordinates: a raw scan has NaN where a ray did not return
_TELLING = ("ring", "intensity", "z", "y", "x", "time", "_", "-")  # whole numbers tell a layout best
_USUAL = (
    ("x", "y", "z", "intensity"),
    ("x", "y", "z", "intensity", "ring", "time"),
    ("x", "y", "z", "intensity", "_"),
)


def decode_points(file: Location, data: bytes, columns: Sequence[str] | None = None) -> np.ndarray:
    """Points of a LiDAR file, without the points of NaN or infinite coordinates in raw scans.

    Args:
        file: the file's address, for messages.
        data: the file's content.
        columns: names of its columns; None for nuScenes' own.

    Returns:
        [P, 5] float32: x, y, z (m, lidar frame), intensity (0..255), ring; a column missing in the file is 0.

    Raises:
        UserError: the size is no whole number of points, or the numbers do not fit the columns.
    """
    names = tuple(columns or PUBLISHED_COLUMNS)
    check_size(file, len(data), names)
    table = _table(data, names)
    if fault := _fault(table, names):
        raise UserError(f"LiDAR file {file} does not hold {','.join(names)}: {fault}; {_remedy(data, names)}")
    if names != PUBLISHED_COLUMNS:
        zero = np.zeros(len(table), table.dtype)
        chosen = [table[:, names.index(name)] if name in names else zero for name in PUBLISHED_COLUMNS]
        table = np.stack(chosen, axis=1)
    finite = _finite(table, PUBLISHED_COLUMNS)
    # Without missing returns, the rule in nuScenes' own files, the points stay a view of the file's bytes.
    return table if finite.all() else table[finite]


def check_size(file: Location, size: int, columns: Sequence[str] | None = None) -> None:
    """Refuse a LiDAR file whose size is no whole number of points.

    Args:
        file: the file's address, for messages.
        size: of the file (bytes).
        columns: names of its columns; None for nuScenes' own.

    Raises:
        UserError: the file is empty, or its last point is cut.
    """
    point = 4 * len(columns or PUBLISHED_COLUMNS)
    if not size or size % point:
        remedy = f"correct {_OPTION}" if columns and tuple(columns) != PUBLISHED_COLUMNS else f"state {_OPTION}"
        raise UserError(
            f"LiDAR file {file} has {size} bytes, no whole number of {point}-byte points; "
            f"copy it from nuScenes again, or {remedy} if its layout is another"
        )


def _table(data: bytes, names: Sequence[str]) -> np.ndarray:
    return np.frombuffer(data, dtype="<f4").reshape(-1, len(names))


def _finite(table: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[P] bool: the point has coordinates."""
    return np.isfinite(table[:, [names.index(axis) for axis in "xyz"]]).all(axis=1)


def _fault(table: np.ndarray, names: Sequence[str]) -> str | None:
    """The first impossible column of a table [P, columns], in words, or None."""
    finite = _finite(table, names)
    if finite.mean() < _FINITE:
        return f"{1 - finite.mean():.0%} of its points have NaN or infinite coordinates"
    points = table[finite]
    for name in sorted({*names}, key=_TELLING.index):
        position = names.index(name)
        values = points[:, position]
        if name in ("x", "y", "z"):
            wrong, rule = np.abs(values) > _FARTHEST, f"metres within {_FARTHEST:.0f} of the sensor"
        elif name == "intensity":
            wrong, rule = ~((values >= 0) & (values <= _BRIGHTEST)), f"0 to {_BRIGHTEST}"
        elif name == "ring":
            whole = values == np.floor(values)
            wrong, rule = ~(whole & (values >= 0) & (values <= _LAST_RING)), f"whole numbers of 0 to {_LAST_RING}"
        else:
            break
        # A single NaN intensity makes all of a model's outputs NaN; a rare odd number does little harm.
        if wrong.mean() > _TOLERATED or not np.isfinite(values[wrong]).all():
            share = f"{wrong.sum()} of {len(points)} points"
            return f"column {position + 1} ({name}) holds {values[wrong][0]:.4g}, not {rule}, in {share}"
    return None


def _remedy(data: bytes, names: tuple[str, ...]) -> str:
    # A guess is offered only after the same check has passed under the other layout.
    for usual in _USUAL:
        if usual != names and len(data) % (4 * len(usual)) == 0 and not _fault(_table(data, usual), usual):
            return f"this looks like {len(usual)} columns: {_OPTION} {','.join(usual)}"
    dark = tuple("_" if name == "intensity" else name for name in names)
    if dark != names and "ring" in names and not _fault(_table(data, names), dark):
        return f"bring its intensities into 0..{_BRIGHTEST}, or do without them: {_OPTION} {','.join(dark)}"
    return f"state the columns that it has with {_OPTION}, or copy it from nuScenes again"
