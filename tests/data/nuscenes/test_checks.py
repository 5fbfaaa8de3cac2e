"""Numbers and tokens that cannot be: found by name, or left out and counted."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

VERSION = "v1.0-trainval"
NAN, INFINITY = math.nan, math.inf
UNIT = [1.0, 0.0, 0.0, 0.0]

NUMBERS = [
    ("sample_annotation", "size", [0.0, 4.1, 1.6]),
    ("sample_annotation", "size", [1.9, -4.1, 1.6]),
    ("sample_annotation", "size", [1.9, NAN, 1.6]),
    ("sample_annotation", "size", [1.9, 4.1]),
    ("sample_annotation", "size", None),
    ("sample_annotation", "size", ["1.9", "4.1", "1.6"]),
    ("sample_annotation", "translation", [INFINITY, 0.0, 0.0]),
    ("sample_annotation", "translation", [10**400, 0, 0]),
    ("sample_annotation", "translation", [1e300, 0.0, 0.0]),
    ("sample_annotation", "size", [1.9, 4.1, 1e9]),
    ("sample_data", "timestamp", 1533151603547590123),
    ("sample", "timestamp", 0),
    ("sample_annotation", "rotation", [0.0, 0.0, 0.0, 0.0]),
    ("sample_annotation", "rotation", [NAN, 0.0, 0.0, 1.0]),
    ("sample_annotation", "rotation", [1.002, 0.0, 0.0, 0.0]),
    ("sample_annotation", "num_lidar_pts", None),
    ("sample_annotation", "num_lidar_pts", -1),
    ("sample_annotation", "num_radar_pts", 1.5),
    ("ego_pose", "translation", [NAN, 0.0, 0.0]),
    ("ego_pose", "rotation", [0.5, 0.0, 0.0, 0.0]),
    ("calibrated_sensor", "rotation", [0.0, 0.0, 0.0, 0.0]),
    ("calibrated_sensor", "translation", "here"),
    ("calibrated_sensor", "camera_intrinsic", [[0.0, 0, 8], [0, 10.0, 4], [0, 0, 1]]),
    ("calibrated_sensor", "camera_intrinsic", []),
    ("sample_data", "width", 0),
    ("sample_data", "height", True),
    ("sample_data", "timestamp", NAN),
    ("sample", "timestamp", None),
    ("sample_annotation", "size", [1.9, True, 1.6]),
    ("sample_annotation", "num_lidar_pts", 2**40),
    ("calibrated_sensor", "camera_intrinsic", [[10.0, 0, 8], [0, 10.0, 4], [0, 0, 0]]),
    ("scene", "nbr_samples", None),
    ("instance", "nbr_annotations", None),
]
TOKENS = [
    ("sample_annotation", "instance_token", "nobody"),
    ("sample_annotation", "attribute_tokens", ["nobody"]),
    ("sample_annotation", "prev", "nobody"),
    ("sample_annotation", "visibility_token", None),
    ("sample_data", "is_key_frame", "true"),
    ("sample_data", "ego_pose_token", "nobody"),
    ("sample_data", "next", "nobody"),
    ("sample_data", "filename", None),
    ("sample", "scene_token", "nobody"),
    ("scene", "first_sample_token", "nobody"),
    ("scene", "log_token", 7),
    ("calibrated_sensor", "sensor_token", None),
    ("calibrated_sensor", "sensor_token", ["a"]),
    ("sample_data", "calibrated_sensor_token", ["a"]),
    ("sample_annotation", "sample_token", ["a"]),
    ("scene", "last_sample_token", "nobody"),
    ("sample_data", "filename", ""),
    ("attribute", "name", "\ud800"),
]


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A dataroot whose tables a test may damage; its sensor files are links."""
    root = tmp_path / "nuscenes"
    shutil.copytree(synthetic_root / VERSION, root / VERSION)
    return root


def edit(root: Path, table: str, change) -> None:
    file = root / VERSION / f"{table}.json"
    records = json.loads(file.read_text())
    change(records)
    file.write_text(json.dumps(records))


def records(root: Path, table: str) -> list[dict]:
    return json.loads((root / VERSION / f"{table}.json").read_text())


def opened(root: Path, reading: Reading = AS_PUBLISHED, **options) -> Index:
    return open_index(
        Location.parse(root), VERSION, Location.parse(root.parent / "storage"), reading, progress=False, **options
    )


def camera_record(rows: list[dict], table: str) -> dict:
    """A record that belongs to a camera, where that matters."""
    key = "camera_intrinsic" if table == "calibrated_sensor" else "width"
    return next(row for row in rows if row.get(key)) if table in ("calibrated_sensor", "sample_data") else rows[1]


@pytest.mark.parametrize(("table", "field", "value"), [*NUMBERS, *TOKENS])
def test_the_record_and_the_field_are_named(table, field, value, root):
    token = []

    def damage(rows: list[dict]) -> None:
        record = camera_record(rows, table)
        token.append(record["token"])
        record[field] = value

    edit(root, table, damage)
    with pytest.raises(UserError, match=rf"^{field} of {table} {{}} is ".format(token[0])) as error:
        opened(root)
    assert "but must be" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (root.parent / "storage").exists()


def test_whole_numbers_may_be_written_as_floats(root):
    whole = opened(root)
    field = "num_lidar_pts"
    edit(root, "sample_annotation", lambda rows: [row.update({field: float(row[field])}) for row in rows])
    index = opened(root)
    assert index.fingerprint != whole.fingerprint
    np.testing.assert_array_equal(index.record(0).boxes.num_lidar_pts, whole.record(0).boxes.num_lidar_pts)


def test_a_field_that_is_missing_is_named(root):
    edit(root, "sample_annotation", lambda rows: rows[3].pop("size"))
    with pytest.raises(
        UserError, match=r"^size of sample_annotation \w+ is missing, but must be three numbers above 0"
    ):
        opened(root)


def test_like_records_and_other_fields_are_counted(root):
    edit(root, "sample_annotation", lambda rows: [row.update(size=[1, 1, 0]) for row in rows[:5]])
    edit(root, "ego_pose", lambda rows: rows[0].update(translation=None))
    with pytest.raises(UserError, match=r"\(4 more records like it\), and 1 other field at fault in .*--skip-invalid$"):
        opened(root)


@pytest.mark.parametrize("table", ["sample", "sample_data", "sample_annotation"])
@pytest.mark.parametrize(("way", "when"), [("next", "a later"), ("prev", "an earlier")])
def test_a_record_that_follows_itself_is_told_and_ends(table, way, when, root):
    edit(root, table, lambda rows: rows[0].update({way: rows[0]["token"]}))
    with pytest.raises(UserError, match=rf"^{way} of {table} (\w+) is '\1', but must be the token of {when} record"):
        opened(root)


@pytest.mark.parametrize(
    ("table", "kin", "owner"),
    [("sample_annotation", "instance", "instance_token"), ("sample_data", "sensor", "calibrated_sensor_token")],
)
def test_a_neighbour_of_another_instance_or_sensor_is_told(table, kin, owner, root):
    def damage(rows: list[dict]) -> None:
        followed = {row["token"]: row for row in rows if row["next"]}
        one = next(iter(followed.values()))
        other = next(row for row in followed.values() if row[owner] != one[owner])
        one["next"] = other["next"]

    edit(root, table, damage)
    told = rf"^next of {table} \w+ is '\w+', but must be the token of a record of the same {kin} in table {table}"
    with pytest.raises(UserError, match=told):
        opened(root)


def test_two_keyframe_files_of_one_sensor_are_told(root):
    def double(rows: list[dict]) -> None:
        one = next(row for row in rows if row["is_key_frame"])
        rows.append(one | {"token": "twin", "prev": "", "next": ""})

    edit(root, "sample_data", double)
    told = r"^sample_token of sample_data twin is '\w+', but must be a sample without another keyframe file of the same"
    with pytest.raises(UserError, match=told):
        opened(root)


def test_a_keyframe_that_comes_back_to_an_earlier_one_is_told(root):
    edit(root, "sample", lambda rows: rows[2].update(next=rows[0]["token"]))
    with pytest.raises(UserError, match=r"^next of sample \w+ is '\w+', but must be the token of a later record in"):
        opened(root)


def test_keyframes_outside_their_scene_are_told(root):
    edit(root, "sample", lambda rows: rows[0].update(next=""))
    with pytest.raises(UserError, match=r"^\d+ of the \d+ samples in .* follow after no sample of their scene"):
        opened(root)


def test_two_records_of_one_token_are_told(root):
    edit(root, "instance", lambda rows: rows[1].update(token=rows[0]["token"]))
    with pytest.raises(UserError, match=r"^table instance in .* has two records with the token '\w+'; copy the tables"):
        opened(root)


def test_invalid_boxes_are_left_out_and_counted(root):
    whole = opened(root)
    rows = records(root, "sample_annotation")
    chained = next(row for row in rows if row["prev"] or row["next"])
    broken = {chained["token"], rows[0]["token"], rows[-1]["token"]}
    edit(root, "sample_annotation", lambda rows: [
        row.update(size=[0.0, 1.0, 1.0]) for row in rows if row["token"] in broken
    ])  # fmt: skip
    index = opened(root, Reading(skip_invalid=True))
    assert index.left_out == {"invalid_annotations": len(broken)}
    assert index.tokens() == whole.tokens()
    for row in range(len(whole)):
        before, after = whole.record(row).boxes, index.record(row).boxes
        kept = [place for place, token in enumerate(before.tokens) if token not in broken]
        assert after.tokens == [before.tokens[place] for place in kept]
        np.testing.assert_array_equal(after.global_boxes[:, :7], before.global_boxes[kept, :7])
        # A velocity is taken from the neighbours in time, which may be other ones now, or too far away to tell.
        assert not np.isinf(after.global_boxes).any()


def test_a_broken_pose_leaves_its_keyframe_out(root):
    whole = opened(root)
    data = {row["token"]: row for row in records(root, "sample_data")}
    sample = whole.tokens()[2]
    frame = next(row for row in data.values() if row["sample_token"] == sample and row["is_key_frame"] and row["width"])
    edit(root, "ego_pose", lambda rows: [
        row.update(translation=[NAN] * 3) for row in rows if row["token"] == frame["ego_pose_token"]
    ])  # fmt: skip
    index = opened(root, Reading(skip_invalid=True))
    assert index.left_out["invalid_keyframes"] >= 1
    assert sample not in index.tokens()
    assert set(index.tokens()) < set(whole.tokens())
    assert all(np.isfinite(index.record(row).lidar_to_global).all() for row in range(len(index)))


def test_faults_that_hold_the_tables_together_are_not_left_out(root):
    edit(root, "sample", lambda rows: rows[0].update(timestamp=None))
    with pytest.raises(UserError, match=r"^timestamp of sample .* whole number of microseconds .*; copy the tables"):
        opened(root, Reading(skip_invalid=True))


def test_nothing_left_is_told(root):
    edit(root, "calibrated_sensor", lambda rows: [row.update(rotation=[0, 0, 0, 0]) for row in rows])
    with pytest.raises(UserError, match=r"^no keyframe of .* is left, without \d+ invalid frames, \d+ inv"):
        opened(root, Reading(skip_invalid=True))


def test_a_reading_has_an_index_of_its_own(root):
    published, skipping = opened(root), opened(root, Reading(skip_invalid=True))
    assert published.file != skipping.file
    assert published.fingerprint != skipping.fingerprint
    assert skipping.left_out == {}


def test_scenes_without_files_and_missing_sweeps_are_left_out(synthetic_root, root):
    for folder in ("samples", "sweeps"):
        shutil.copytree(synthetic_root / folder, root / folder)
    whole = opened(root)
    scenes = list(dict.fromkeys(whole.scenes()))
    first, last = whole.record(0), whole.record(len(whole) - 1)
    (root / next(iter(first.cameras.values())).file).unlink()
    (root / last.sweeps[0].file).unlink()
    index = opened(root, Reading(partial=True), look=True)
    assert index.left_out == {"scenes_without_files": 1, "sweeps_without_files": 1}
    assert list(dict.fromkeys(index.scenes())) == scenes[1:]
    shorter = index.record(len(index) - 1)
    assert last.sweeps[0].file not in [sweep.file for sweep in shorter.sweeps]
    assert [sweep.file for sweep in shorter.sweeps[:2]] == [sweep.file for sweep in last.sweeps[1:3]]

    shutil.copy(synthetic_root / last.sweeps[0].file, root / last.sweeps[0].file)
    assert opened(root, Reading(partial=True)).left_out["sweeps_without_files"] == 1  # a worker sees what the start saw
    assert opened(root, Reading(partial=True), look=True).left_out == {"scenes_without_files": 1}


def test_splits_are_the_users_where_there_are_any(root):
    names = [scene["name"] for scene in records(root, "scene")]
    official = opened(root)
    (root / VERSION / "splits.json").write_text(json.dumps({"train": names[1:], "val": names[:1], "all": names}))
    index = opened(root)
    assert index.fingerprint != official.fingerprint
    assert {index.record(row).scene_name for row in index.samples("val")} == {names[0]}
    assert {index.record(row).scene_name for row in index.samples("train")} == set(names[1:])


def test_mini_splits_are_meant_where_there_are_no_others(root):
    names = [scene["name"] for scene in records(root, "scene")]
    (root / VERSION / "splits.json").write_text(json.dumps({"mini_train": names[1:], "mini_val": names[:1]}))
    index = opened(root)
    assert {index.record(row).scene_name for row in index.samples("val")} == {names[0]}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("[]", "does not name lists of scenes by split"),
        ('{"train": "scene-0001"}', "does not name lists of scenes by split"),
        ('{"train": [1]}', "does not name lists of scenes by split"),
    ],
)
def test_broken_splits_are_told(text, complaint, root):
    (root / VERSION / "splits.json").write_text(text)
    with pytest.raises(UserError, match=complaint):
        opened(root)


def test_a_scene_of_another_length_is_told(root):
    edit(root, "scene", lambda rows: rows[0].update(nbr_samples=99))
    with pytest.raises(UserError, match=r"^scene \w+ in .* has \d+ samples, the last one \w+, but names 99 as nbr_sam"):
        opened(root)


def test_a_box_with_a_neighbour_that_is_not_there_is_left_out(root):
    for token in ("nobody", 3, ["a"]):
        edit(root, "sample_annotation", lambda rows, token=token: rows[0].update(prev=token))
        assert opened(root, Reading(skip_invalid=True)).left_out == {"invalid_annotations": 1}


def test_a_table_nested_without_end_is_told(root):
    (root / VERSION / "ego_pose.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"ego_pose.json is not valid JSON .*; copy the tables again"):
        opened(root)


def test_older_sweeps_do_not_take_the_place_of_missing_ones(synthetic_root, root):
    for folder in ("samples", "maps"):
        shutil.copytree(synthetic_root / folder, root / folder)
    whole, index = opened(root), opened(root, Reading(partial=True))
    assert set(index.left_out) == {"sweeps_without_files"}
    for row in range(len(whole)):
        there = [sweep.file for sweep in whole.record(row).sweeps if sweep.file.startswith("samples/")]
        assert [sweep.file for sweep in index.record(row).sweeps] == there
