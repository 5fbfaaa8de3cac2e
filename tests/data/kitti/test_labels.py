from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from altermoma_ray.data.kitti.labels import format_labels, parse_labels
from altermoma_ray.errors import UserError

CAR = "Car 0.10 1 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62"
DONT_CARE = "DontCare -1 -1 -10 5.00 229.89 214.12 367.61 -1 -1 -1 -1000 -1000 -1000 -10"


def test_every_value_has_its_place():
    labels = parse_labels(f"{CAR}\r\n\n  {DONT_CARE}\n", "000002.txt", scored=False)
    assert (len(labels), labels.types, labels.scores) == (2, ("Car", "DontCare"), None)
    assert labels.truncation.tolist() == [0.1, -1]
    assert (labels.occlusion.tolist(), labels.occlusion.dtype) == ([1, -1], np.int64)
    assert labels.alpha.tolist() == [1.55, -10]
    assert labels.boxes_2d[0].tolist() == [614.24, 181.78, 727.31, 284.77]
    assert labels.sizes[0].tolist() == [1.57, 1.73, 4.15]
    assert labels.locations[0].tolist() == [1.0, 1.75, 13.22]
    assert labels.rotation_y.tolist() == [1.62, -10]


def test_scores_may_be_any_finite_number():
    labels = parse_labels(f"{CAR} -7.25\n{CAR} 1e3", "000002.txt", scored=True)
    assert labels.scores.tolist() == [-7.25, 1000]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_objects(text):
    labels = parse_labels(text, "000002.txt", scored=True)
    assert (len(labels), labels.boxes_2d.shape, labels.sizes.shape, labels.scores.shape) == (0, (0, 4), (0, 3), (0,))
    assert format_labels(labels) == ""


@pytest.mark.parametrize("scored", [False, True])
def test_what_is_written_is_read_back_to_the_last_digit(scored):
    random = np.random.default_rng(0)
    numbers = random.normal(size=(20, 15)) * 10.0 ** random.integers(-9, 9, (20, 15))
    lines = [
        " ".join(["Van", str(row[0]), "2", *map(str, row[1:].tolist()[: 13 if scored else 12])]) for row in numbers
    ]
    before = parse_labels("\n".join(lines), "a", scored=scored)
    after = parse_labels(format_labels(before), "b", scored=scored)
    assert after.types == before.types
    for name in ("truncation", "occlusion", "alpha", "boxes_2d", "sizes", "locations", "rotation_y", "scores"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize(
    ("line", "scored", "message"),
    [
        ("Car 0 0", False, r"^a/1\.txt, line 2 has 3 values, but a label has 15; write the line in KITTI's layout$"),
        (f"{CAR} 0.5", False, "line 2 has 16 values, but a label has 15"),
        (CAR, True, "line 2 has no score; a result has 16 values, the score last$"),
        (f"{CAR} 0.5 1", True, "line 2 has 17 values, but a result has 16"),
        (CAR.replace("13.22", "x"), False, "line 2 has z 'x'; every value after the type must be a finite number$"),
        (CAR.replace("13.22", "nan"), False, "has z 'nan'"),
        (CAR.replace("1.73", "-inf"), False, "has width '-inf'"),
        (CAR.replace("614.24", "1e999"), False, "has left '1e999'"),
        (CAR.replace("614.24", "6_14"), False, "has left '6_14'"),
        (f"{CAR} NaN", True, "has score 'NaN'"),
        (CAR.replace(" 1 ", " 1.5 "), False, "has occlusion '1.5'; it must be a whole number, 0 to 3"),
        (CAR.replace(" 1 ", " 1e30 "), False, "has occlusion '1e30'"),
    ],
)
def test_bad_lines(line, scored, message):
    good = f"{CAR} 0.5" if scored else CAR
    with pytest.raises(UserError, match=message):
        parse_labels(f"{good}\n{line}\n", "a/1.txt", scored=scored)


def test_huge_finite_numbers_are_numbers():
    assert parse_labels(CAR.replace("13.22", "1.5e308").replace("1.75", "1.5e308"), "a", scored=False).locations[0, 2]


def test_a_type_of_two_words_is_not_written():
    labels = parse_labels(CAR, "a", scored=False)
    object.__setattr__(labels, "types", ("Big Car",))
    with pytest.raises(ValueError, match="a type must be one word, but got 'Big Car'"):
        format_labels(labels)


def test_real_frames():
    folder = Path(os.environ.get("ALTERMOMA_KITTI", "")) / "training" / "label_2"
    if "ALTERMOMA_KITTI" not in os.environ:
        pytest.skip("ALTERMOMA_KITTI is not set: it names the folder of real KITTI frames")
    for file in folder.iterdir():
        text = file.read_text()
        labels = parse_labels(text, str(file), scored=False)
        assert len(labels) == len(text.splitlines())
        known = labels.sizes[[name != "DontCare" for name in labels.types]]
        assert ((known > 0.2) & (known < 30)).all()
