"""The index holds the files' content, is built once, and is built anew after a change."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from altermoma_ray.data.kitti.index import open_index
from altermoma_ray.data.kitti.labels import parse_labels
from altermoma_ray.data.kitti.source import Kitti, synthetic_kitti_folder
from altermoma_ray.data.kitti.splits import usual_splits
from altermoma_ray.storage import Location


def opened(root, storage):
    return open_index(Location.parse(root), Location.parse(storage), progress=False)


def test_rows_hold_the_files_content(small_kitti, tmp_path):
    index = pickle.loads(pickle.dumps(opened(small_kitti, tmp_path)))
    assert index.names() == [f"{number:06d}" for number in range(5)]
    assert index.samples("train") == [0, 1, 2]
    assert index.samples("val") == [3, 4]
    for row, name in enumerate(index.names()):
        frame = index.frame(row)
        text = (small_kitti / "training" / "label_2" / f"{name}.txt").read_text()
        labels = parse_labels(text, name, scored=False)
        assert frame.labels.types == labels.types
        for field in ("truncation", "occlusion", "alpha", "boxes_2d", "sizes", "locations", "rotation_y"):
            assert (getattr(frame.labels, field) == getattr(labels, field)).all(), field
            assert getattr(frame.labels, field).dtype == getattr(labels, field).dtype
        lines = dict(
            line.split(": ")
            for line in (small_kitti / "training" / "calib" / f"{name}.txt").read_text().splitlines()
            if line
        )
        values = {key: np.array(text.split(), float).reshape(3, -1) for key, text in lines.items()}
        assert (frame.projection == values["P2"]).all()
        np.testing.assert_allclose(frame.to_rectified, values["R0_rect"] @ values["Tr_velo_to_cam"])
        assert (frame.width, frame.height) == (312, 94)
    assert index.has_planes


def test_a_frame_without_objects_has_none(kitti, tmp_path):
    (kitti / "training" / "label_2" / "000001.txt").write_text("")
    index = opened(kitti, tmp_path / "storage")
    assert len(index.labels(1)) == 0
    assert len(index.labels(2)) > 0
    for file in (kitti / "training" / "label_2").iterdir():
        file.write_text("")
    assert [len(opened(kitti, tmp_path / "storage").labels(row)) for row in range(5)] == [0] * 5


def test_a_second_opening_reads_no_file(kitti, tmp_path, monkeypatch):
    first = opened(kitti, tmp_path / "storage")
    monkeypatch.setattr("altermoma_ray.data.kitti.index.build_index", None)
    again = opened(kitti, tmp_path / "storage")
    assert (again.created, again.fingerprint) == (first.created, first.fingerprint)


def test_the_fingerprint_follows_the_content_and_not_the_place(kitti, tmp_path):
    storage = tmp_path / "storage"
    first = opened(kitti, storage).fingerprint
    copied = shutil.copytree(kitti, tmp_path / "elsewhere")
    assert opened(copied, storage).fingerprint == first
    file = kitti / "training" / "label_2" / "000002.txt"
    before = file.read_text()
    file.write_text(before.replace("1.65", "1.66", 1))
    changed = opened(kitti, storage)
    assert changed.fingerprint != first
    assert 1.66 in changed.labels(2).locations
    file.write_text(before)
    assert opened(kitti, storage).fingerprint == first


def test_a_damaged_index_is_built_anew(kitti, tmp_path):
    first = opened(kitti, tmp_path / "storage")
    file = tmp_path / "storage" / "index" / first.file.name
    file.write_bytes(file.read_bytes()[:500])
    assert opened(kitti, tmp_path / "storage").fingerprint == first.fingerprint


def test_the_usual_splits_share_no_frame_and_are_all(real_kitti):
    splits = usual_splits()
    assert sorted(splits["train"] + splits["val"]) == [f"{number:06d}" for number in range(7481)]
    for name in ("train", "val"):
        ours = (real_kitti / "ImageSets" / f"{name}.txt").read_text().split()
        assert set(ours) <= set(splits[name])


def test_the_command_describes_the_index(kitti, printed, tmp_path):
    options = ("index", "kitti", "--dataroot", kitti, "--storage", tmp_path / "storage")
    assert "5 frames (train 3, val 2), built" in printed(*options)
    shutil.rmtree(kitti / "training" / "planes")
    told = printed(*options)
    assert "no planes in the data set: the ground is taken to be level, 1.65 m below the camera" in told
    index = opened(kitti, tmp_path / "storage")
    assert index.frame(0).plane.tolist() == [0, -1, 0, 1.65]


def test_opening_the_index_imports_nothing_heavy(small_kitti, tmp_path):
    opened(small_kitti, tmp_path)
    script = (
        "import sys; from altermoma_ray.data.kitti.index import open_index\n"
        "from altermoma_ray.storage import Location\n"
        f"index = open_index(Location.parse({str(small_kitti)!r}), Location.parse({str(tmp_path)!r}))\n"
        "print(len(index), {'torch', 'nuscenes', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "set()"]


def test_ground_truth_is_by_frame(small_kitti, tmp_path):
    source = Kitti(dataroot=str(small_kitti), storage=str(tmp_path))
    found = source.ground_truth(source.rows("validation"))
    assert list(found) == ["000003", "000004"]
    assert found["000004"].types == source.index().labels(4).types
    assert source.rows("validation", "tuning") == [3]
    assert source.rows("validation", "reporting") == [4]


def test_a_dataroot_without_planes_is_told_when_prepared(kitti, tmp_path, capsys):
    shutil.rmtree(kitti / "training" / "planes")
    Kitti(dataroot=str(kitti), storage=str(tmp_path / "storage")).prepare()
    told = " ".join(capsys.readouterr().err.split())
    assert "5 frames: 3 to train on, 2 to validate" in told
    assert "no planes in the data set" in told


@pytest.mark.slow
def test_the_toy_set_is_made_on_first_use(tmp_path):
    source = Kitti(dataroot=str(synthetic_kitti_folder(Location.parse(tmp_path))), storage=str(tmp_path))
    source.prepare()
    assert len(source.rows("train")) == 800
    assert len(source.rows("validation")) == 240
