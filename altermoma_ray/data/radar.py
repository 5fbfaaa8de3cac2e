"""Radar returns as a model's input: the columns of a return, and their encoding.

A return has 18 columns in a file of nuScenes. A model sees 45 values of it: x, y, z (m), radar cross section (dBsm),
velocity over ground x, y (m/s), age (s), and 38 values of 0 or 1 which stand for the codes of four columns.

Source: the published camera-radar BEVFusion (Liu et al., ICRA 2023). Its augmentation turns the third and fourth column
of these 45 as the velocity, though there stand the cross section and the velocity's x; here the velocity is turned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

COLUMNS = (
    *("x", "y", "z", "dyn_prop", "id", "rcs", "vx", "vy", "vx_comp", "vy_comp", "is_quality_valid", "ambig_state"),
    *("x_rms", "y_rms", "invalid_state", "pdh0", "vx_rms", "vy_rms"),
)
"""The columns of a return, in the order of nuScenes' files; ``*_comp`` is without the vehicle's own motion."""
MEASURED = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
"""The columns that a model sees as they are, before the age."""
VELOCITY = slice(4, 6)
"""Where the velocity stands in an encoded return."""
_ONE_HOT = (("dyn_prop", 8), ("ambig_state", 5), ("invalid_state", 18))
"""Columns with codes 0, 1, ..., and their numbers of codes."""
_FALSE_ALARM = ("pdh0", 7)
"""The class of the probability of a false alarm, 0 (invalid) or 1 (least) to 7 (most), as so many steps."""
VALUES = len(MEASURED) + 1 + sum(codes for _, codes in _ONE_HOT) + _FALSE_ALARM[1]
"""Values of an encoded return."""


class RadarInputConfig(BaseModel):
    """The radar returns that a model reads; the defaults are the published ones.

    >>> RadarInputConfig().sweeps
    6
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweeps: int = Field(default=6, ge=1, le=6)
    """Sweeps of each radar in all, the keyframe's own included (13 a second)."""
    max_points: int = Field(default=2500, ge=1)
    """Returns of a sample in all; the newest within the model's range are kept."""


def encode(returns: NDArray[np.float32], age: float) -> NDArray[np.float32]:
    """The 45 values of each return.

        >>> point = np.zeros((1, len(COLUMNS)), np.float32)
        >>> point[0, COLUMNS.index("dyn_prop")] = 2
        >>> encode(point, age=0.5)[0, 6:16].tolist()  # age, then eight kinds of motion, then ambiguity
        [0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]

    Args:
        returns: [P, 18], columns as in ``COLUMNS``, in any frame.
        age: time between the measurement and the keyframe (s).

    Returns:
        [P, 45] in the same frame. A code that nuScenes does not know has no 1.
    """
    column = {name: returns[:, place] for place, name in enumerate(COLUMNS)}
    parts = [column[name][:, None] for name in MEASURED]
    parts.append(np.full((len(returns), 1), age, np.float32))
    parts += [column[name][:, None] == np.arange(codes) for name, codes in _ONE_HOT]
    name, steps = _FALSE_ALARM
    parts.append(column[name][:, None] >= np.arange(1, steps + 1))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def transform_returns(returns: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Encoded returns moved by a [4, 4] similarity: velocities are turned, mirrored and scaled with the scene.

        >>> mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        >>> transform_returns(np.ones((1, VALUES), np.float32), mirror)[0, [0, 1, 3, 4, 5]].tolist()
        [-1.0, 1.0, 1.0, -1.0, 1.0]

    Args:
        returns: [P, 45].
        matrix: of any rotation, scale and mirror.
    """
    moved = returns.copy()
    moved[:, :3] = returns[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    # Radars measure no vertical velocity: it counts as 0 in the frame of the measurement.
    moved[:, VELOCITY] = returns[:, VELOCITY] @ matrix[:2, :2].T
    return moved


def advance(returns: NDArray[np.float32], age: float) -> NDArray[np.float32]:
    """Encoded returns at the place they have reached after their age, if they moved on by their measured velocity.

    Args:
        returns: [P, 45] in the keyframe's frame.
        age: of all of them (s).
    """
    moved = returns.copy()
    moved[:, :2] += age * returns[:, VELOCITY]
    return moved
