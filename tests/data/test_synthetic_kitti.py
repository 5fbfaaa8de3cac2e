"""The synthetic KITTI: read as a real one, and true to itself."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from altermoma_ray.data.kitti import geometry
from altermoma_ray.data.kitti.dataroot import read_points
from altermoma_ray.data.kitti.index import learned, open_index
from altermoma_ray.data.synthetic import kitti, kitti_frames, rig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

TRAIN, VAL = 7, 5
TYPES = ("Car", "Pedestrian", "Cyclist", "Van", "Truck", "Misc")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "kitti"
    kitti.generate(folder, train=TRAIN, val=VAL, seed=3, processes=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def index(root, tmp_path_factory):
    return open_index(Location.parse(root), Location.parse(tmp_path_factory.mktemp("storage")), progress=False)


def inside(points, box, slack=0.0):
    """[P] whether points are in a box, which is larger by some slack (m)."""
    x, y, z, length, width, height, turn = box
    across, ahead = points[:, 0] - x, points[:, 2] - z
    cos, sin = math.cos(turn), math.sin(turn)
    flat = (np.abs(cos * across - sin * ahead) <= length / 2 + slack) & (
        np.abs(sin * across + cos * ahead) <= width / 2 + slack
    )
    up = y - points[:, 1]
    return flat & (up >= -slack) & (up <= height + slack)


def content(folder):
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_layout_is_official(root, index):
    names = [f"{number:06d}" for number in range(TRAIN + VAL)]
    for folder, ending in (("image_2", "png"), ("velodyne", "bin"), ("calib", "txt"), ("label_2", "txt")):
        assert sorted(file.name for file in (root / "training" / folder).iterdir()) == [
            f"{name}.{ending}" for name in names
        ]
    assert (root / "ImageSets" / "val.txt").read_text().split() == names[TRAIN:]
    keys = [line.split(":")[0] for line in (root / "training/calib/000000.txt").read_text().splitlines() if line]
    assert keys == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
    assert index.samples("train") == list(range(TRAIN))
    assert index.has_planes
    with Image.open(root / "training" / "image_2" / "000000.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (624, 188))


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(tmp_path):
    small = {"train": 2, "val": 1, "width": 312, "azimuths": 180, "progress": False}
    for name, seed, processes in (("one", 5, 1), ("two", 5, 2), ("other", 6, 1)):
        kitti.generate(tmp_path / name, seed=seed, processes=processes, **small)
    one, two, other = (content(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    differs = {name for name in one if one[name] != other[name]}
    assert {name.split("/")[1] for name in differs if "/" in name} == {"image_2", "velodyne", "label_2"}


def test_labelled_objects_have_points_and_most_points_near_a_box_are_in_it(index):
    near, within = 0, 0
    for row in range(len(index)):
        frame = index.frame(row)
        points = geometry.transform(read_points(index.dataroot, frame.name), frame.to_rectified)
        boxes, _ = learned(frame.labels, TYPES)
        for box in boxes:
            # Labels have two digits, and the scan's noise is 2 cm.
            found = inside(points, box, 0.05)
            assert found.sum() >= kitti_frames.MINIMUM_POINTS
            standing = (box[1] - points[:, 1]) > 0.15
            near += (inside(points, box, 0.25) & standing).sum()
            within += (found & standing).sum()
    assert within > 0.97 * near


def test_2d_boxes_are_the_projected_boxes_as_far_as_truncation_allows(index):
    seen = 0
    for row in range(len(index)):
        frame = index.frame(row)
        boxes, _ = learned(frame.labels, TYPES)
        count = len(boxes)
        projected = geometry.boxes_in_picture(boxes, frame.projection)
        clipped = np.clip(projected, 0, (frame.width - 1, frame.height - 1) * 2)
        # Rounding to centimetres is a pixel at 5 m.
        np.testing.assert_allclose(frame.labels.boxes_2d[:count], clipped, atol=2.0)
        whole = np.prod(projected[:, 2:] - projected[:, :2], axis=1)
        shown = np.clip(projected, 0, (frame.width, frame.height) * 2)
        truncation = 1 - np.prod(shown[:, 2:] - shown[:, :2], axis=1) / whole
        np.testing.assert_allclose(frame.labels.truncation[:count], truncation, atol=0.03)
        alpha = boxes[:, 6] - np.arctan2(boxes[:, 0], boxes[:, 2])
        turned = np.abs((frame.labels.alpha[:count] - alpha + np.pi) % (2 * np.pi) - np.pi)
        assert turned.max(initial=0) < 0.02
        seen += count
    assert seen > 60


def test_areas_not_to_care_about_come_last_and_have_no_box(index):
    for row in range(len(index)):
        labels = index.labels(row)
        kinds = [name == "DontCare" for name in labels.types]
        assert kinds == sorted(kinds)
        assert (labels.sizes[kinds] == -1).all()
        assert (labels.locations[kinds] == -1000).all()
        known = ~np.array(kinds)
        assert (labels.locations[known, 2] <= kitti_frames.FARTHEST).all()
        assert set(labels.occlusion[known]) <= {0, 1, 2, 3}


def test_objects_of_all_classes_at_all_levels(index):
    types, levels = Counter(), Counter()
    for row in range(len(index)):
        labels = index.labels(row)
        types.update(labels.types)
        levels.update(labels.occlusion[labels.occlusion >= 0].tolist())
    assert set(types) == {*TYPES, "DontCare"}
    assert min(types[name] for name in ("Car", "Pedestrian", "Cyclist")) >= 12
    assert levels[0] > levels[1] > levels[2] > 0


def view(**changes):
    box = np.array([100.0, 90, 140, 110])
    figures = {"type": "Car", "size": (1.5, 1.8, 4.0), "location": (0.0, 1.65, 20.0), "rotation_y": 0.0, "box": box}
    return kitti_frames.View(**{**figures, "share": 1.0, "points": 30, **changes})


@pytest.mark.parametrize(
    ("share", "level"), [(1.0, 0), (0.8, 0), (0.79, 1), (0.4, 1), (0.39, 2), (0.2, 2), (0.15, 3), (0.1, 3)]
)
def test_occlusion_follows_the_visible_share(share, level):
    labels = kitti_frames.label([view(share=share)], 624, 188)
    assert (labels.types, labels.occlusion.tolist()) == (("Car",), [level])


@pytest.mark.parametrize(
    "change",
    [
        {"share": 0.05},
        {"points": 2},
        {"location": (0.0, 1.65, 40.5)},
        {"box": np.array([-90.0, 90, 10, 110])},
    ],
)
def test_objects_that_no_sensor_sees_well_are_areas_not_to_care_about(change):
    assert kitti_frames.label([view(**change), view()], 624, 188).types == ("Car", "DontCare")


def test_an_object_beside_the_picture_is_not_in_its_labels():
    assert len(kitti_frames.label([view(box=np.array([-90.0, 90, -10, 110]))], 624, 188)) == 0
    half = kitti_frames.label([view(box=np.array([-20.0, 90, 20, 110]))], 624, 188)
    assert half.truncation.tolist() == [0.5]
    assert half.boxes_2d.tolist() == [[0, 90, 20, 110]]


def test_points_fall_on_the_pixels_of_their_bodies(root, index):
    """Picture and points are of one world: a pedestrian's points lie on the pedestrian's violet pixels."""
    violet = []
    for row in range(len(index)):
        frame = index.frame(row)
        with Image.open(root / "training" / "image_2" / f"{frame.name}.png") as picture:
            pixels = np.asarray(picture, np.int64)
        points = geometry.transform(read_points(index.dataroot, frame.name), frame.to_rectified)
        boxes, _ = learned(frame.labels, ("Pedestrian",))
        for box in boxes[boxes[:, 2] < 15]:
            found = points[inside(points, box)]
            places, _ = geometry.project(found, frame.projection)
            shown = (places >= 0).all(1) & (places < (frame.width, frame.height)).all(1)
            column, line = np.floor(places[shown]).astype(int).T
            red, green, blue = pixels[line, column].T
            violet += ((blue > red) & (red > green)).tolist()
    assert len(violet) > 100
    # The head, a quarter, is skin, and the LiDAR sees around a corner or two.
    assert np.mean(violet) > 0.6


def test_rectification_is_needed_to_reach_the_frame_of_labels(index):
    frame = index.frame(0)
    straight = kitti_frames.rectification()
    assert 0.005 < np.abs(straight - np.eye(3)).max() < 0.05
    np.testing.assert_allclose(straight @ straight.T, np.eye(3), atol=1e-12)
    # Ahead of the LiDAR is ahead of the camera, and the LiDAR is 27 cm behind and 8 cm above.
    np.testing.assert_allclose(frame.to_rectified @ [10, 0, 0, 1], [0, -0.08, 9.73], atol=1e-9)
    # The colour camera is 6 cm to the left of the grey one, and 5 mm behind it.
    origin = -np.linalg.solve(frame.projection[:, :3], frame.projection[:, 3])
    np.testing.assert_allclose(origin, [-rig.KITTI_COLOUR.translation[1], 0, -0.005], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, r"train must be in 1\.\.7481, but got 0"),
        ({"width": 32}, r"width must be in 64\.\.1242, but got 32"),
        ({"processes": 0}, "processes must be at least 1, but got 0"),
    ],
)
def test_arguments_out_of_range(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        kitti.generate(tmp_path / "kitti", progress=False, **options)
    assert not list(tmp_path.iterdir())
