from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.geometry_utils import BoxVisibility, view_points
from pyarrow import fs
from pyquaternion import Quaternion

from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.data.nuscenes.dataroot import TABLES, describe
from altermoma_ray.data.nuscenes.index import Index, build_index, index_file, open_index
from altermoma_ray.data.nuscenes.records import camera_to_lidar, project
from altermoma_ray.data.nuscenes.rig import CAMERAS
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

REAL, SYNTHETIC = "real_nuscenes", "synthetic_root"
VERSIONS = {REAL: "v1.0-mini", SYNTHETIC: "v1.0-trainval"}


@pytest.fixture(scope="module", params=[REAL, SYNTHETIC])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, NuScenes]:
    root, version = request.getfixturevalue(request.param), VERSIONS[request.param]
    index = open_index(Location.parse(root), version, Location.parse(tmp_path_factory.mktemp("storage")))
    return index, NuScenes(version, str(root), verbose=False)


@pytest.fixture
def tables(synthetic_root: Path, tmp_path: Path) -> Path:
    """A dataroot of its own, tables only, that a test may damage."""
    root = tmp_path / "nuscenes"
    (root / "v1.0-trainval").mkdir(parents=True)
    for name in TABLES:
        shutil.copy(synthetic_root / "v1.0-trainval" / f"{name}.json", root / "v1.0-trainval")
    return root


def reopen(root: Path, storage: Path, version: str = "v1.0-trainval") -> Index:
    return open_index(Location.parse(root), version, Location.parse(storage), progress=False)


def edit(root: Path, name: str, change) -> None:
    file = root / "v1.0-trainval" / f"{name}.json"
    records = json.loads(file.read_text())
    change(records)
    file.write_text(json.dumps(records))


def test_every_keyframe_is_there_in_order(opened):
    index, nusc = opened
    assert sorted(index.tokens()) == sorted(sample["token"] for sample in nusc.sample)
    for row in range(len(index)):
        record = index.record(row)
        sample = nusc.get("sample", record.token)
        scene = nusc.get("scene", sample["scene_token"])
        assert record.scene_name == scene["name"]
        assert record.timestamp == sample["timestamp"]
        assert record.location == nusc.get("log", scene["log_token"])["location"]
        assert (
            row == 0
            or index.record(row - 1).scene_token != record.scene_token
            or sample["prev"] == index.tokens()[row - 1]
        )


def test_sensors_agree_with_the_devkit(opened):
    index, nusc = opened
    for row in range(len(index)):
        record = index.record(row)
        data = nusc.get("sample", record.token)["data"]
        sensors = {**record.cameras, **record.radars, "LIDAR_TOP": record.lidar}
        assert set(sensors) == set(data)
        assert tuple(record.cameras) == CAMERAS
        for channel, frame in sensors.items():
            entry = nusc.get("sample_data", data[channel])
            assert (frame.file, frame.timestamp) == (entry["filename"], entry["timestamp"])
        for channel, camera in record.cameras.items():
            path, _, intrinsic = nusc.get_sample_data(data[channel])
            assert path.endswith(camera.file)
            np.testing.assert_array_equal(camera.intrinsic, intrinsic)
        entry = nusc.get("sample_data", data["LIDAR_TOP"])
        for sweep in record.sweeps:
            entry = nusc.get("sample_data", entry["prev"])
            assert (sweep.file, sweep.timestamp) == (entry["filename"], entry["timestamp"])
        assert len(record.sweeps) == 10 or not entry["prev"]


def test_boxes_agree_with_the_devkit(opened):
    index, nusc = opened
    for row in range(len(index)):
        record = index.record(row)
        _, expected, _ = nusc.get_sample_data(nusc.get("sample", record.token)["data"]["LIDAR_TOP"])
        table = record.boxes
        assert table.tokens == [box.token for box in expected]
        to_lidar = np.linalg.inv(record.lidar_to_global)[:3, :3]
        for number, box in enumerate(expected):
            annotation = nusc.get("sample_annotation", box.token)
            width, length, height = box.wlh
            np.testing.assert_allclose(table.boxes[number, :6], [*box.center, length, width, height], atol=1e-4)
            forward = box.orientation.rotation_matrix[:, 0]
            np.testing.assert_allclose(np.tan(table.boxes[number, 6]) * forward[0], forward[1], atol=1e-4)
            assert np.cos(table.boxes[number, 6]) * forward[0] >= -1e-9
            velocity = nusc.box_velocity(box.token)
            np.testing.assert_allclose(table.boxes[number, 7:], (to_lidar @ velocity)[:2], atol=1e-4)
            np.testing.assert_allclose(table.global_boxes[number, :3], annotation["translation"], atol=1e-9)
            yaw = Quaternion(annotation["rotation"]).yaw_pitch_roll[0]
            assert np.cos(table.global_boxes[number, 6] - yaw) == pytest.approx(1)
            np.testing.assert_allclose(table.global_boxes[number, 7:], velocity[:2])
            assert table.categories[number] == annotation["category_name"]
            names = [nusc.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
            assert table.attributes[number] == (names[0] if names else "")
            assert table.visibility[number] == int(annotation["visibility_token"] or 0)
            assert table.num_lidar_pts[number] == annotation["num_lidar_pts"]
            assert table.num_radar_pts[number] == annotation["num_radar_pts"]
            assert table.instance_tokens[number] == annotation["instance_token"]


def test_lidar_boxes_moved_to_the_global_frame_are_the_annotations(opened):
    index, _ = opened
    record = index.record(0)
    moved = record.boxes.boxes[:, :3] @ record.lidar_to_global[:3, :3].T + record.lidar_to_global[:3, 3]
    np.testing.assert_allclose(moved, record.boxes.global_boxes[:, :3], atol=1e-6)


def test_projected_box_centres_agree_with_the_devkit_to_a_hundredth_of_a_pixel(opened):
    index, nusc = opened
    compared = 0
    for row in range(min(len(index), 4)):
        record = index.record(row)
        data = nusc.get("sample", record.token)["data"]
        for channel in CAMERAS:
            _, boxes, intrinsic = nusc.get_sample_data(data[channel], box_vis_level=BoxVisibility.NONE)
            centres = np.stack([box.center for box in boxes], axis=1)
            ahead = centres[2] > 0.1
            expected = view_points(centres[:, ahead], intrinsic, normalize=True)[:2].T
            pixels, depth = project(record.boxes.boxes[:, :3], record, channel)
            np.testing.assert_allclose(depth, centres[2], atol=1e-4)
            near = np.abs(expected).max(axis=1) < 1e4  # beside the camera, pixels run off to infinity
            np.testing.assert_allclose(pixels[ahead][near], expected[near], atol=0.01)
            compared += int(near.sum())
    assert compared > 20


def test_camera_to_lidar_includes_the_ego_motion_between_exposures(opened):
    index, _ = opened
    record = index.record(0)
    for channel, camera in record.cameras.items():
        through_global = record.lidar_to_global @ camera_to_lidar(record, channel)
        np.testing.assert_allclose(through_global, camera.ego_to_global @ camera.camera_to_ego, atol=1e-8)


def test_labels_name_the_detection_classes(opened):
    index, _ = opened
    for row in range(len(index)):
        table = index.record(row).boxes
        for label, category in zip(table.labels, table.categories, strict=True):
            if category == "movable_object.pushable_pullable" or "rack" in category:
                assert label == -1
            if category == "vehicle.car":
                assert CLASSES[label] == "car"
        np.testing.assert_array_equal(index.labels(row), table.labels[table.learnable])


def test_splits_are_the_official_ones(opened):
    index, _ = opened
    if index.version == "v1.0-mini":
        assert index.splits == {"mini_train": 1}
        assert index.samples("train") == index.samples("mini_train") == [0]
    else:
        assert set(index.splits) == {"train", "val"}
        train, val = index.samples("train"), index.samples("val")
        assert sorted(train + val) == list(range(len(index)))
        assert {index.record(row).split for row in train} == {"train"}


def test_an_unknown_split_is_named_with_those_that_exist(real_nuscenes, tmp_path):
    index = reopen(real_nuscenes, tmp_path, "v1.0-mini")
    with pytest.raises(UserError, match="no keyframe of split 'val'; it has: mini_train"):
        index.samples("val")


def test_opening_and_reading_import_nothing_heavy(tables, tmp_path):
    index = reopen(tables, tmp_path)
    script = (
        "import sys; from altermoma_ray.data.nuscenes.index import open_index\n"
        "from altermoma_ray.storage import Location\n"
        f"index = open_index(Location.parse({str(tables)!r}), 'v1.0-trainval', Location.parse({str(tmp_path)!r}))\n"
        "print(len(index), len(index.record(0).boxes), {'nuscenes', 'torch', 'cv2', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"{len(index)} {len(index.record(0).boxes)} set()"


def test_an_index_goes_to_another_process(tables, tmp_path):
    index = reopen(tables, tmp_path)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.fingerprint == index.fingerprint
    np.testing.assert_array_equal(copy.record(1).boxes.boxes, index.record(1).boxes.boxes)


def test_the_index_is_reused_until_a_table_changes(tables, tmp_path):
    first = reopen(tables, tmp_path)
    made = os.stat(first.file.path).st_mtime_ns
    for name in TABLES:
        os.utime(tables / "v1.0-trainval" / f"{name}.json")
    assert os.stat(reopen(tables, tmp_path).file.path).st_mtime_ns == made  # touched, not changed

    edit(tables, "sample_annotation", lambda records: records[0].update(num_lidar_pts=12345))
    second = reopen(tables, tmp_path)
    assert second.fingerprint != first.fingerprint
    assert any(12345 in second.record(row).boxes.num_lidar_pts for row in range(len(second)))


def test_an_untouched_table_is_not_read_again(tables):
    table = Location.parse(tables / "v1.0-trainval" / "scene.json")
    size, time, content = describe(table)
    assert describe(table, [size, time, "as known"]) == [size, time, "as known"]
    assert describe(table, [size, time - 1, "as known"]) == [size, time, content]


def test_at_most_ten_earlier_sweeps_are_kept(tmp_path):
    from altermoma_ray.data.synthetic import generate

    generate(tmp_path / "nuscenes", scenes=1, sweeps=8, processes=1, progress=False)
    index = reopen(tmp_path / "nuscenes", tmp_path)
    assert len(index.record(0).sweeps) == 8
    second = index.record(1)  # after 8 sweeps, a keyframe and 8 sweeps
    times = [sweep.timestamp for sweep in second.sweeps]
    assert len(times) == 10
    assert times == sorted(times, reverse=True)
    assert times[0] < second.lidar.timestamp


def test_the_fingerprint_depends_on_content_alone(tables, tmp_path):
    first = reopen(tables, tmp_path / "a")
    shutil.copytree(tables, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    second = reopen(tmp_path / "elsewhere", tmp_path / "a")
    assert second.fingerprint == first.fingerprint
    assert second.file.path != first.file.path


def test_a_damaged_index_is_built_anew(tables, tmp_path):
    first = reopen(tables, tmp_path)
    file = Path(first.file.path)
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2])
    with pytest.raises(UserError, match="not a readable index"):
        Index(first.file, first.dataroot)
    assert len(reopen(tables, tmp_path)) == len(first)
    assert file.stat().st_size == size


def test_numbers_are_views_of_the_mapped_file(tables, tmp_path):
    boxes = reopen(tables, tmp_path).record(0).boxes.boxes
    assert not boxes.flags.owndata
    assert not boxes.flags.writeable


def test_remote_dataroot_and_storage(tables, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = Location(fs.LocalFileSystem(), str(tables), "s3")  # a real file system that is not taken for the local disk
    storage = Location(fs.LocalFileSystem(), str(tmp_path), "s3")
    storage.join("index").make_folder()
    index = open_index(root, "v1.0-trainval", storage, progress=False)
    assert len(list((tmp_path / "cache" / "altermoma_ray" / "index").iterdir())) == 1
    np.testing.assert_array_equal(index.record(0).boxes.boxes, reopen(tables, tmp_path / "b").record(0).boxes.boxes)


def test_a_missing_dataroot_is_named(tmp_path):
    with pytest.raises(UserError, match=r"dataroot .*nowhere is no folder; give --dataroot the folder"):
        reopen(tmp_path / "nowhere", tmp_path)


def test_a_wrong_version_is_answered_with_those_that_exist(tables, tmp_path):
    with pytest.raises(UserError, match=r"has no version 'v1.0-mini'; choose a version that is there: v1.0-trainval"):
        reopen(tables, tmp_path, "v1.0-mini")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it holds no nuScenes version at all"):
        reopen(tmp_path / "empty", tmp_path)


def test_broken_tables_are_named_and_leave_nothing_behind(tables, tmp_path):
    storage = tmp_path / "storage"
    file = tables / "v1.0-trainval" / "scene.json"
    good = file.read_text()
    file.write_text(good[:100])
    with pytest.raises(UserError, match=r"scene.json is not valid JSON .*; copy the tables again"):
        reopen(tables, storage)
    file.unlink()
    with pytest.raises(UserError, match=r"v1.0-trainval lacks scene.json; copy all 13 tables"):
        reopen(tables, storage)
    file.write_text(good)
    edit(tables, "ego_pose", lambda records: records.clear())
    with pytest.raises(UserError, match=r"ego_pose_token of sample_data .* must be the token of a record in table e"):
        reopen(tables, storage)
    edit(tables, "sensor", lambda records: records.clear())
    with pytest.raises(
        UserError, match=r"sensor_token of calibrated_sensor .* must be the token of a record in table s"
    ):
        reopen(tables, storage)
    assert not storage.exists()


def test_a_file_name_in_the_tables_cannot_leave_its_folder(tables, tmp_path):
    edit(tables, "map", lambda records: records[0].update(filename="../../outside.png"))
    with pytest.raises(UserError, match="leaves its folder"):
        reopen(tables, tmp_path / "storage")
    assert not (tmp_path / "outside.png").exists()


def test_a_storage_that_cannot_be_written_is_named(tables, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*choose a folder that you may write"):
        reopen(tables, tmp_path / "file")


def test_build_index_writes_where_it_is_told(tables, tmp_path):
    out = Location.parse(tmp_path / "my.arrow")
    build_index(Location.parse(tables), "v1.0-trainval", out, progress=False)
    assert len(Index(out, Location.parse(tables))) > 0
    assert index_file(Location.parse(tables), "v1.0-trainval", Location.parse(tmp_path)).name.startswith(
        "nuscenes-v1.0-trainval-"
    )


def test_the_command_reports_the_index_and_mistakes(real_nuscenes, tmp_path):
    command = [sys.executable, "-m", "altermoma_ray.index", "nusc", "--dataroot", str(real_nuscenes)]
    command += ["--storage", str(tmp_path / "storage")]
    result = subprocess.run([*command, "--version", "v1.0-mini"], capture_output=True, text=True, check=True)
    assert "1 keyframes (mini_train 1)" in result.stdout
    result = subprocess.run([*command, "--version", "v1.0-test"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: dataroot")
    assert len(result.stderr.splitlines()) == 1
