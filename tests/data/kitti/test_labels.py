"""KITTI's files of objects."""

from __future__ import annotations

import numpy as np
import pytest

from altermoma_ray.data.kitti.labels import format_labels, parse_labels
from altermoma_ray.errors import UserError

CAR = "Car 0.00 0 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62"
AREA = "DontCare -1 -1 -10 5.00 6.00 7.00 8.00 -1 -1 -1 -1000 -1000 -1000 -10"


def test_a_file_is_read_in_its_order():
    labels = parse_labels(f"{CAR}\r\n\n{AREA}\n", "000002.txt", scored=False)
    assert labels.types == ("Car", "DontCare")
    assert labels.occlusion.tolist() == [0, -1]
    np.testing.assert_array_equal(labels.boxes_2d[1], (5, 6, 7, 8))
    np.testing.assert_array_equal(labels.locations[0], (1.0, 1.75, 13.22))
    assert labels.scores is None


def test_an_empty_file_has_no_object():
    labels = parse_labels("", "000002.txt", scored=True)
    assert len(labels) == 0
    assert labels.boxes_2d.shape == (0, 4)
    assert labels.scores.shape == (0,)


def test_written_numbers_are_read_again_to_the_last_digit():
    labels = parse_labels(f"{CAR} {-1 / 3}\n{CAR} 1e-9", "000002.txt", scored=True)
    again = parse_labels(format_labels(labels), "again", scored=True)
    for field in ("truncation", "occlusion", "alpha", "boxes_2d", "sizes", "locations", "rotation_y", "scores"):
        np.testing.assert_array_equal(getattr(again, field), getattr(labels, field))


@pytest.mark.parametrize(
    ("line", "scored", "message"),
    [
        (CAR, True, "has no score; a result has 16 values"),
        (f"{CAR} 0.5 0.5", True, "has 17 values, but a result has 16"),
        (f"{CAR} 0.5", False, "has 16 values, but a label has 15"),
        (CAR.replace("13.22", "nan"), False, "has z 'nan'; every value after the type must be a finite number"),
        (CAR.replace("13.22", "1_3"), False, "has z '1_3'"),
        (CAR.replace("1.57", "tall"), False, "has height 'tall'"),
        (CAR.replace(" 0 ", " 0.5 "), False, "has occlusion '0.5'; it must be a whole number"),
    ],
)
def test_a_broken_line_is_told(line, scored, message):
    with pytest.raises(UserError, match=f"^000002.txt, line 2 {message}"):
        parse_labels(f"{CAR} 0.5\n{line}" if scored else f"{CAR}\n{line}", "000002.txt", scored=scored)
