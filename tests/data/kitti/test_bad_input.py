"""Data sets that are missing, cut or broken: one line, exit code 2, and no index."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from altermoma_ray.data.kitti.dataset import KittiDataset
from altermoma_ray.data.kitti.index import open_index
from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location


def spoil(kitti, name, change):
    """Change the content of a file."""
    file = kitti / name
    content = change(file.read_bytes())
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def resize(kitti, name, size):
    file = kitti / name
    Image.open(file).resize(size).save(file)


def replace(old, new):
    def change(content):
        assert re.search(old, content), content
        return re.sub(old, new, content, count=1)

    return change


NAN = np.float32("nan").tobytes()
FAULTS = {
    "no folder of points": (
        lambda root: shutil.rmtree(root / "training" / "velodyne"),
        r"/training lacks velodyne; it must hold image_2, velodyne, calib, label_2 of KITTI's object detection$",
    ),
    "the folder training given": (
        lambda root: (
            [shutil.move(root / "training" / name, root / name) for name in ("image_2", "velodyne", "calib", "label_2")]
            and shutil.rmtree(root / "training")
        ),
        r"dataroot .* has no `training`; it must hold image_2",
    ),
    "no calibration of a frame": (
        lambda root: spoil(root, "training/calib/000003.txt", lambda _: None),
        r"split val names frame 000003, but .*/calib/000003\.txt is missing \(1 of 2 are\); copy it there, or name ",
    ),
    "no labels of a frame": (
        lambda root: spoil(root, "training/label_2/000000.txt", lambda _: None),
        r"split train names frame 000000, but .*/label_2/000000\.txt is missing",
    ),
    "a plane fewer": (
        lambda root: spoil(root, "training/planes/000002.txt", lambda _: None),
        r"split train names frame 000002, but .*/planes/000002\.txt is missing",
    ),
    "an absent frame": (
        lambda root: spoil(root, "ImageSets/train.txt", lambda text: text + b"000777\n"),
        r"split train names frame 000777, but .*/image_2/000777\.png is missing \(1 of 4 are\)",
    ),
    "a frame in both splits": (
        lambda root: spoil(root, "ImageSets/train.txt", lambda text: text + b"000003\n"),
        r"frame 000003 is in both train and val \(.*/ImageSets\); keep it once$",
    ),
    "a frame that is no number": (
        lambda root: spoil(root, "ImageSets/val.txt", lambda text: text + b"../../secret\n"),
        r"val\.txt names frame '\.\./\.\./secret'; a frame has six digits, such as 000042$",
    ),
    "an empty split": (
        lambda root: spoil(root, "ImageSets/val.txt", lambda _: b"\n"),
        r"val\.txt names no frame; write a frame on each line, such as 000042$",
    ),
    "one split alone": (
        lambda root: spoil(root, "ImageSets/val.txt", lambda _: None),
        r"val\.txt is missing beside train\.txt; add it$",
    ),
    "no splits, and not all of KITTI": (
        lambda root: shutil.rmtree(root / "ImageSets"),
        r"split train names frame 000007, but .*000007\.png is missing \(\d+ of 3712 are\); copy it there, or name the "
        r"frames that there are in ImageSets/train\.txt$",
    ),
    "a label line of another length": (
        lambda root: spoil(root, "training/label_2/000001.txt", replace(rb"\n", b" 7\n")),
        r"label_2/000001\.txt, line 1 has 16 values, but a label has 15",
    ),
    "an object without a size": (
        lambda root: spoil(
            root,
            "training/label_2/000001.txt",
            lambda _: b"Car 0 0 0 1 1 9 9 0 1 2 0 1.6 9 0\n",
        ),
        r"000001\.txt has a Car of size \[0\.0, 1\.0, 2\.0\]; sizes must be above 0$",
    ),
    "a 2D box inside out": (
        lambda root: spoil(root, "training/label_2/000001.txt", lambda _: b"Car 0 0 0 9 1 1 9 1 1 2 0 1.6 9 0\n"),
        r"000001\.txt has a Car with a 2D box whose left or top is beyond its right or bottom$",
    ),
    "a calibration without P2": (
        lambda root: spoil(root, "training/calib/000001.txt", replace(rb"P2", b"P9")),
        r"calib/000001\.txt has no P2; copy the calibration from KITTI again$",
    ),
    "a calibration of other length": (
        lambda root: spoil(root, "training/calib/000001.txt", replace(rb"R0_rect: \S+", b"R0_rect:")),
        r"000001\.txt has R0_rect with 8 values, but must have 9 finite numbers; copy",
    ),
    "a calibration that is no rotation": (
        lambda root: spoil(root, "training/calib/000001.txt", replace(rb"R0_rect: \S+", b"R0_rect: 3")),
        r"000001\.txt has no rotation in R0_rect",
    ),
    "a calibration with a word": (
        lambda root: spoil(root, "training/calib/000001.txt", replace(rb"P2: \S+", b"P2: nan")),
        r"000001\.txt has P2 with 12 values, but must have 12 finite numbers; copy",
    ),
    "a plane of three numbers": (
        lambda root: spoil(root, "training/planes/000001.txt", replace(rb" 1.65", b"")),
        r"planes/000001\.txt is no plane; it must have three lines of heading and a fourth with a, b, c and d$",
    ),
    "a plane without a heading": (
        lambda root: spoil(root, "training/planes/000001.txt", lambda _: b"0 -1 0 1.65\n"),
        r"planes/000001\.txt is no plane",
    ),
    "a wall for a plane": (
        lambda root: spoil(root, "training/planes/000001.txt", replace(rb"0.0 -1.0", b"1.0 -0.1")),
        r"000001\.txt has plane 1\.0 -0\.1 0\.0 1\.65, which is no ground; its b must outweigh a and c$",
    ),
    "points of three floats": (
        lambda root: spoil(root, "training/velodyne/000002.bin", lambda data: data[:-4]),
        r"points .*/000002\.bin hold \d+ bytes, but a point is x, y, z, reflectance as float32",
    ),
    "no points": (
        lambda root: spoil(root, "training/velodyne/000002.bin", lambda _: b""),
        r"velodyne/000002\.bin is empty; copy it from KITTI again$",
    ),
    "points with a gap": (
        lambda root: spoil(root, "training/velodyne/000002.bin", lambda data: NAN + data[4:]),
        r"000002\.bin hold a coordinate that is no number below 1 km, but a point is",
    ),
    "points of another scale": (
        lambda root: spoil(
            root,
            "training/velodyne/000002.bin",
            lambda data: (np.frombuffer(data, "<f4").reshape(-1, 4) * [1, 1, 1, 255]).astype("<f4").tobytes(),
        ),
        r"000002\.bin hold a reflectance outside of 0\.\.1, but a point is",
    ),
    "a picture of half the size": (
        lambda root: resize(root, "training/image_2/000004.png", (156, 47)),
        r"000004\.png has 156x47 pixels, but its frame's calibration has its middle at 156, 47; give the original",
    ),
    "a picture a little smaller": (
        lambda root: resize(root, "training/image_2/000004.png", (260, 78)),
        r"000004\.png has 260x78 pixels, but its frame's labels cover .*; give the original picture$",
    ),
    "a picture that is none": (
        lambda root: spoil(root, "training/image_2/000004.png", lambda _: b"GIF89a" + bytes(60)),
        r"000004\.png is broken \(no PNG\); copy it from KITTI again$",
    ),
    "a picture cut short": (
        lambda root: spoil(root, "training/image_2/000004.png", lambda data: data[:900]),
        r"000004\.png is broken \(.*\); copy it from KITTI again$",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_says_one_line(fault, kitti, answer, tmp_path):
    change, message = FAULTS[fault]
    change(kitti)
    said = answer("index", "kitti", "--dataroot", kitti)
    assert len(said.strip().splitlines()) == 1, said
    assert re.search(message, said.strip()), said
    # Point clouds and pictures are looked into after the index is written, which is then whole.
    left = {file.name for file in (tmp_path / "storage").rglob("*") if file.is_file()}
    assert not [name for name in left if not name.endswith(".arrow")]
    if "picture cut" not in fault and "points " not in fault:
        assert not left


def test_the_page_of_errors_says_the_same():
    text = (Path(__file__).parents[3] / "docs" / "errors.md").read_text()
    rows = [line.split(" | ") for line in text.partition("## KITTI")[2].partition("\n## ")[0].splitlines()]
    documented = {row[0].strip("| "): row[2].strip("`| ") for row in rows if len(row) == 3}
    known = FAULTS.keys() & documented.keys()
    assert len(known) >= 16
    assert [fault for fault in known if not re.search(FAULTS[fault][1], documented[fault])] == []


def test_an_option_of_nuscenes(kitti, answer):
    said = answer("index", "kitti", "--dataroot", kitti, "--version", "v1.0-mini")
    assert "--follow-links are for nuScenes; leave them out with kitti" in said


def test_no_dataroot(answer, tmp_path):
    said = answer("index", "kitti", "--dataroot", tmp_path / "absent")
    assert "is no folder; give --dataroot the folder that holds `training`" in said


def test_points_of_another_car_fall_into_no_picture(kitti, tmp_path):
    file = kitti / "training" / "velodyne" / "000000.bin"
    points = np.frombuffer(file.read_bytes(), "<f4").reshape(-1, 4) * np.float32([-1, 1, 1, 1])
    file.write_bytes(points.tobytes())
    index = open_index(Location.parse(kitti), Location.parse(tmp_path / "storage"))
    with pytest.raises(UserError, match=r"none of the points .*/000000\.bin falls into the frame's picture; copy"):
        KittiDataset(index, [0], KittiInputs(), augment=False)[0]


def test_a_picture_that_changed_after_it_was_indexed(kitti, tmp_path):
    index = open_index(Location.parse(kitti), Location.parse(tmp_path / "storage"))
    resize(kitti, "training/image_2/000000.png", (300, 94))
    with pytest.raises(UserError, match=r"000000\.png has 300x94 pixels, but the figures of the index say 312x94"):
        KittiDataset(index, [0], KittiInputs(), augment=False)[0]
