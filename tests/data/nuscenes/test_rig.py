"""Sensors as the data have them: a rig other than nuScenes' own, from its tables to the official metric."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from altermoma_ray.data.loader import Loader
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.data.nuscenes.rig import CAMERAS, check_rig, choose_cameras, find_rig
from altermoma_ray.data.synthetic import generate, matches
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tasks.metrics.nuscenes_detection import evaluate
from altermoma_ray.workloads.nusc import SHIPPED
from tests.plans import toy_workload

VERSION = "v1.0-trainval"
FOUR = ("CAM_0", "CAM_1", "CAM_2", "CAM_3")


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """Four cameras, and a LiDAR of another name."""
    folder = tmp_path_factory.mktemp("four") / "nuscenes"
    generate(folder, scenes=2, seed=0, cameras=4, lidar_channel="LIDAR_ROOF", processes=1, progress=False)
    return folder


@pytest.fixture
def own(four, tmp_path) -> Path:
    """The four-camera set, to be changed."""
    return Path(shutil.copytree(four, tmp_path / "nuscenes"))


def edit(root: Path, table: str, change) -> None:
    file = root / VERSION / f"{table}.json"
    records = json.loads(file.read_text())
    file.write_text(json.dumps(change(records)))


def linked(rows: list[dict]) -> list[dict]:
    """Rows whose neighbours in time are there, or none."""
    there = {row["token"] for row in rows} | {""}
    return [row | {way: "" for way in ("prev", "next") if row[way] not in there} for row in rows]


def opened(root: Path, storage: Path, **reading) -> Index:
    return open_index(Location.parse(root), VERSION, Location.parse(storage), Reading(**reading), progress=False)


def test_another_rig_runs_with_the_toy_and_its_shipped_weights_up_to_the_official_metric(four, tmp_path, capfd):
    source = toy_workload(tmp_path / "storage", four).load().source()
    model, _ = load_checkpoint(Location.parse(SHIPPED))
    source.prepare()
    assert "4 cameras (CAM_0, CAM_1, CAM_2, CAM_3), LiDAR LIDAR_ROOF" in " ".join(capfd.readouterr().err.split())
    index = source.index()
    assert index.rig.cameras == FOUR
    rows = source.rows("validation")
    dataset = NuScenesDataset(index, rows, model.config.inputs, augment=False)
    (batch,) = Loader(dataset, collate).load([range(len(rows))])
    assert batch.images.shape[:2] == (2, 4)
    task = DetectionTask(model.config.head)
    with torch.no_grad():
        outputs = model(batch)
        total = task.loss(outputs, batch)["total"]
        without = task.loss(model(batch, masked=frozenset({"camera"})), batch)["total"]
    assert total.isfinite().all()
    assert not torch.allclose(total, without)  # the pictures count
    found = dict(zip(batch.tokens, task.detections(outputs, batch), strict=True))
    metrics = evaluate(found, index, rows)
    assert 0 < metrics["map"] < 1  # the weights, learned with six cameras, find objects with four


def test_cameras_are_in_the_published_order_and_then_by_name():
    names = dict.fromkeys(("CAM_TELE", *sorted(CAMERAS), "CAM_ABOVE"), "camera")
    rig = find_rig({"a": {**names, "LIDAR_TOP": "lidar", "RADAR_FRONT": "radar"}})
    assert rig.cameras == (*CAMERAS, "CAM_ABOVE", "CAM_TELE")
    assert (rig.lidar, rig.other_lidars) == ("LIDAR_TOP", ())


def test_of_several_lidars_the_usual_one_is_read_and_said():
    seen = {"CAM_0": "camera", "LIDAR_A": "lidar"}
    rig = find_rig({"a": {**seen, "LIDAR_TOP": "lidar"}, "b": {**seen, "LIDAR_TOP": "lidar", "LIDAR_B": "lidar"}})
    assert str(rig) == "1 cameras (CAM_0), LiDAR LIDAR_TOP (not LIDAR_A, LIDAR_B)"
    assert find_rig({"a": {**seen, "LIDAR_TOP": "lidar"}, "b": seen}).lidar == "LIDAR_A"


@pytest.mark.parametrize(
    ("keyframes", "message"),
    [
        ({"a": {"CAM_0": "camera"}}, "no LiDAR file of any keyframe; give a data set with a LiDAR"),
        ({"a": {"LIDAR_TOP": "lidar"}}, "no picture of any keyframe; give a data set with a camera"),
        (
            {"a": {"CAM_0": "camera", "LIDAR_A": "lidar"}, "b": {"CAM_0": "camera", "LIDAR_B": "lidar"}},
            "no LiDAR is in every keyframe: the tables have LIDAR_A, LIDAR_B, but keyframe b has LIDAR_B; give all",
        ),
    ],
)
def test_sensors_that_are_not_there_are_one_line(keyframes, message):
    with pytest.raises(UserError, match=message):
        find_rig(keyframes)


def test_a_model_that_names_cameras_gets_these_or_a_line(four, tmp_path):
    index = opened(four, tmp_path)
    chosen = InputConfig(cameras=("CAM_2", "CAM_0"))
    check_rig(index, chosen)
    two = NuScenesDataset(index, [0], chosen.model_copy(update={"image_size": (48, 128)}), augment=False)[0]
    assert two.images.shape[0] == 2
    with pytest.raises(UserError, match=r"wants 2 cameras \(CAM_2, CAM_9\), but .* has no CAM_9; it has CAM_0, CAM_1"):
        choose_cameras(InputConfig(cameras=("CAM_2", "CAM_9")), index)


def test_a_keyframe_that_lacks_a_camera_is_one_line_at_the_start(own, tmp_path):
    first = json.loads((own / VERSION / "sample.json").read_text())[0]["token"]
    edit(
        own,
        "sample_data",
        lambda rows: linked([row for row in rows if row["sample_token"] != first or "/CAM_2/" not in row["filename"]]),
    )
    source = toy_workload(tmp_path / "storage", own).load().source()
    with pytest.raises(
        UserError, match=rf"1 of 4 keyframes of .* lack pictures .*keyframe {first} of .* has no CAM_2;"
    ):
        source.prepare()
    index = source.index()
    check_rig(index, InputConfig(cameras=("CAM_0",)))


def test_scenes_with_different_cameras_are_one_line(own, tmp_path):
    samples = json.loads((own / VERSION / "sample.json").read_text())
    last = [sample["token"] for sample in samples if sample["scene_token"] == samples[-1]["scene_token"]]
    edit(
        own,
        "sample_data",
        lambda rows: [row for row in rows if row["sample_token"] not in last or "/CAM_3/" not in row["filename"]],
    )
    with pytest.raises(UserError, match=r"scenes with different cameras: 1 of 2 scenes lack .* for one has no CAM_3;"):
        check_rig(opened(own, tmp_path / "storage"))


def test_standard_cameras_keep_the_stored_configuration():
    """Checkpoints hold the configuration, and names of stored scores hash it."""
    for name in ("bevfusion-mit", "bevfusion-mit-toy"):
        assert configuration(name).model_dump(mode="json")["inputs"]["cameras"] == list(CAMERAS)


def test_an_index_that_does_not_know_its_sensors_is_built_anew(four, tmp_path):
    import pyarrow as pa

    index = opened(four, tmp_path)
    table = pa.ipc.open_file(index.file.path).read_all()
    facts = {key: value for key, value in table.schema.metadata.items() if key != b"rig"}
    with pa.ipc.new_file(index.file.path, table.schema.with_metadata(facts)) as writer:
        writer.write_table(table.replace_schema_metadata(facts))
    again = opened(four, tmp_path)
    assert (again.rig, again.fingerprint) == (index.rig, index.fingerprint)


def test_the_stated_reading_reaches_the_files_in_a_loading_process(own, tmp_path):
    (own / "sweeps").rename(tmp_path / "disk")
    (own / "sweeps").mkdir()
    (own / "sweeps" / "LIDAR_ROOF").symlink_to(tmp_path / "disk" / "LIDAR_ROOF")
    plain = collate(
        [NuScenesDataset(opened(own, tmp_path / "a", follow_links=True), [0], InputConfig(), augment=False)[0]]
    )
    for file in (*own.glob("samples/LIDAR_ROOF/*"), *(tmp_path / "disk").rglob("*.bin")):
        np.fromfile(file, "<f4").reshape(-1, 5)[:, :4].tofile(file)
    stated = {"lidar_columns": ("x", "y", "z", "intensity"), "follow_links": True}
    index = pickle.loads(pickle.dumps(opened(own, tmp_path / "b", **stated)))
    dataset = NuScenesDataset(index, [0], InputConfig(), augment=False)
    (batch,) = Loader(dataset, collate, processes=1).load([[0]])
    assert torch.equal(batch.points[0], plain.points[0])
    with pytest.raises(UserError, match="is a link out of dataroot"):
        NuScenesDataset(
            opened(own, tmp_path / "c", lidar_columns=stated["lidar_columns"]), [0], InputConfig(), augment=False
        )[0]


def test_the_card_of_a_standard_synthetic_set_is_what_it_was(synthetic_root, four):
    assert matches(synthetic_root, scenes=6)
    assert not matches(four, scenes=2)
    assert json.loads((four / "synthetic.json").read_text())["cameras"] == 4
    assert "cameras" not in json.loads((synthetic_root / "synthetic.json").read_text())


@pytest.mark.parametrize(
    ("option", "message"),
    [({"cameras": 13}, "cameras must be in 1..12"), ({"lidar_channel": "../a"}, "a LiDAR channel must be LIDAR and")],
)
def test_wrong_rigs_are_not_generated(option, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "out", scenes=1, **option)
