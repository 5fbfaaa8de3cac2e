"""KITTI's text files of objects: ``label_2`` (ground truth, 15 values a line) and results (16, the score is last).

Frame: the rectified camera frame, x right, y down, z forward (m). A line holds, in this order::

    type truncation occlusion alpha left top right bottom height width length x y z rotation_y [score]

Source of the layout: ``readme.txt`` of KITTI's object development kit (Geiger et al., CVPR 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.errors import UserError

Floats = NDArray[np.float64]

_FIELDS = (
    *("truncation", "occlusion", "alpha", "left", "top", "right", "bottom", "height", "width", "length"),
    *("x", "y", "z", "rotation_y", "score"),
)
"""Names of the numbers of a line, after the type."""
_OCCLUSION = _FIELDS.index("occlusion")
_OCCLUSION_LIMIT = 2**31


@dataclass(frozen=True, eq=False)
class Labels:
    """The M objects of one frame, as rows of one file.

    ``DontCare`` areas have no box in space: their sizes are −1, and their locations −1000.
    """

    types: tuple[str, ...]
    """[M] names as in the file."""
    truncation: Floats
    """[M] share of the object outside the picture, 0..1; −1 where unknown."""
    occlusion: NDArray[np.int64]
    """[M] 0 visible, 1 partly and 2 largely hidden, 3 unknown; −1 in results."""
    alpha: Floats
    """[M] observation angle (rad); −10 where it was not computed."""
    boxes_2d: Floats
    """[M, 4] left, top, right, bottom (px)."""
    sizes: Floats
    """[M, 3] height, width, length (m)."""
    locations: Floats
    """[M, 3] middle of the bottom face, x, y, z (m)."""
    rotation_y: Floats
    """[M] heading about the y axis (rad); 0 looks along x, π/2 along −z."""
    scores: Floats | None = None
    """[M] any finite number, greater is surer; None for ground truth."""

    def __len__(self) -> int:
        return len(self.types)


def parse_labels(text: str, where: str, *, scored: bool) -> Labels:
    """The objects in a file's text.

    Args:
        text: of the file; blank lines count for nothing.
        where: the file's address, for errors.
        scored: whether the file holds results, with a score at the end of each line.

    Raises:
        UserError: a line has another length, a number cannot be read or is not finite, or an occlusion is not whole.

    Example::

        >>> line = "Car 0.00 0 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62"
        >>> parse_labels(line, "000002.txt", scored=False).sizes
        array([[1.57, 1.73, 4.15]])
    """
    # Not `splitlines`, which also ends a line at a form feed and others; `split` takes care of "\r".
    lines = [(number, line.split()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, values) for number, values in lines if values]
    count = len(_FIELDS) if scored else len(_FIELDS) - 1
    for number, values in lines:
        if len(values) != count + 1:
            raise UserError(f"{where}, line {number} {_length_fault(len(values), count + 1, scored)}")
    table = np.array([_numbers(values[1:], f"{where}, line {number}") for number, values in lines], np.float64)
    table = table.reshape(len(lines), count)
    return Labels(
        types=tuple(values[0] for _, values in lines),
        truncation=table[:, 0],
        occlusion=table[:, _OCCLUSION].astype(np.int64),
        alpha=table[:, 2],
        boxes_2d=table[:, 3:7],
        sizes=table[:, 7:10],
        locations=table[:, 10:13],
        rotation_y=table[:, 13],
        scores=table[:, 14] if scored else None,
    )


def format_labels(labels: Labels) -> str:
    """The text of a file, a line for each object; :func:`parse_labels` gives the same numbers back, to the last digit.

    Raises:
        ValueError: a type is empty or holds a space, so that it would not be read back as one word.
    """
    unfit = [name for name in labels.types if name.split() != [name]]
    if unfit:
        raise ValueError(f"a type must be one word, but got {unfit[0]!r}")
    columns = [labels.truncation, labels.occlusion, labels.alpha, *labels.boxes_2d.T, *labels.sizes.T]
    columns += [*labels.locations.T, labels.rotation_y] + ([] if labels.scores is None else [labels.scores])
    # `tolist` gives Python's own numbers, whose shortest exact form `str` writes.
    rows = zip(labels.types, *(column.tolist() for column in columns), strict=True)
    return "".join(f"{' '.join(map(str, row))}\n" for row in rows)


def _length_fault(found: int, expected: int, scored: bool) -> str:
    if scored and found == expected - 1:
        return f"has no score; a result has {expected} values, the score last"
    kind = "result" if scored else "label"
    return f"has {found} values, but a {kind} has {expected}; write the line in KITTI's layout"


def _numbers(values: list[str], where: str) -> list[float]:
    """The numbers of a line.

    Raises:
        UserError: a value is no finite number, or an occlusion is not whole.
    """
    try:
        # Python also reads "1_000", which no other reader of KITTI's files does.
        numbers = [float(value) for value in values if "_" not in value]
    except ValueError:
        numbers = []
    # A sum of finite numbers may overflow, so the sum only spares the search through most lines.
    if len(numbers) != len(values) or not math.isfinite(sum(numbers)):
        for name, value in zip(_FIELDS, values, strict=False):
            if not _is_finite(value):
                raise UserError(f"{where} has {name} {value!r}; every value after the type must be a finite number")
    if not (numbers[_OCCLUSION].is_integer() and abs(numbers[_OCCLUSION]) < _OCCLUSION_LIMIT):
        raise UserError(
            f"{where} has occlusion {values[_OCCLUSION]!r}; it must be a whole number, 0 to 3 or -1 for unknown"
        )
    return numbers


def _is_finite(value: str) -> bool:
    try:
        return "_" not in value and math.isfinite(float(value))
    except ValueError:
        return False
