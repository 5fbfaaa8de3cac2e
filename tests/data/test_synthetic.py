"""The synthetic data set, judged by the official devkit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name, detection_name_to_rel_attributes
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.nuscenes import NuScenes
from nuscenes.utils import splits
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from nuscenes.utils.geometry_utils import BoxVisibility, points_in_box, view_points
from PIL import Image
from pyquaternion import Quaternion

from altermoma_ray.data.synthetic import generate, matches, rig, tables, town
from altermoma_ray.data.synthetic.kinds import KINDS
from altermoma_ray.data.synthetic.scene import Parameters, plan
from altermoma_ray.errors import UserError

SCENES, SEED = 5, 3
PARAMETERS = Parameters(scenes=SCENES, seed=SEED, keyframes=2, sweeps=2, width=400, azimuths=480)
SEGMENTATION_LAYERS = (
    "drivable_area",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "road_divider",
    "lane_divider",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    generate(folder, scenes=SCENES, seed=SEED, processes=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def nusc(root):
    return NuScenes(tables.VERSION, str(root), verbose=False)


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_devkit_finds_thirteen_tables_and_official_scene_names(nusc, root):
    assert sorted(path.stem for path in (root / tables.VERSION).iterdir()) == sorted(nusc.table_names)
    names = [scene["name"] for scene in nusc.scene]
    assert names == splits.train[:4] + splits.val[:1]
    for row in nusc.sample_data:
        assert (root / row["filename"]).is_file()
    assert len(nusc.sample_data) == SCENES * 2 * (6 + 5 + 3)
    for sample in nusc.sample:
        assert len(sample["data"]) == 12
        assert sample["timestamp"] == nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["timestamp"]


def test_chains_of_every_table_are_complete(nusc):
    for table in ("sample", "sample_data", "sample_annotation"):
        for row in getattr(nusc, table):
            if row["next"]:
                following = nusc.get(table, row["next"])
                assert following["prev"] == row["token"]
                if "timestamp" in row:
                    assert following["timestamp"] > row["timestamp"]
    for instance in nusc.instance:
        annotation, seen = instance["first_annotation_token"], []
        while annotation:
            seen.append(annotation)
            annotation = nusc.get("sample_annotation", annotation)["next"]
        assert len(seen) == instance["nbr_annotations"]
        assert seen[-1] == instance["last_annotation_token"]
    # Sweeps belong to the keyframe that they lead to, as in nuScenes.
    for row in nusc.sample_data:
        gap = nusc.get("sample", row["sample_token"])["timestamp"] - row["timestamp"]
        assert 0 <= gap <= 100_000


def is_far(nusc, box):
    sample = nusc.get("sample", box["sample_token"])
    car = nusc.get("ego_pose", sample["data"]["LIDAR_TOP"])["translation"]
    distance = np.hypot(box["translation"][0] - car[0], box["translation"][1] - car[1])
    return box["detection_name"] in ("barrier", "traffic_cone") and distance >= 30


@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_scores_full_marks_with_the_official_evaluation(nusc, split, tmp_path):
    names = set(getattr(splits, split))
    results, present = {}, set()
    for sample in nusc.sample:
        if nusc.get("scene", sample["scene_token"])["name"] not in names:
            continue
        results[sample["token"]] = []
        for annotation in (nusc.get("sample_annotation", name) for name in sample["anns"]):
            name = category_to_detection_name(annotation["category_name"])
            present.add(name)
            attributes = [nusc.get("attribute", item)["name"] for item in annotation["attribute_tokens"]]
            results[sample["token"]].append(
                {
                    "sample_token": sample["token"],
                    "translation": annotation["translation"],
                    "size": annotation["size"],
                    "rotation": annotation["rotation"],
                    "velocity": nusc.box_velocity(annotation["token"])[:2].tolist(),
                    "detection_name": name,
                    "detection_score": 1.0,
                    "attribute_name": attributes[0] if attributes else "",
                }
            )
    meta = {f"use_{sensor}": False for sensor in ("camera", "lidar", "radar", "map", "external")}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"meta": meta, "results": results}))
    evaluation = DetectionEval(
        nusc, config_factory("detection_cvpr_2019"), str(file), split, str(tmp_path), verbose=False
    )
    # The official ranges end at 30 m for barriers and cones, inside the corners of the reach; nothing else is dropped.
    kept = len(evaluation.gt_boxes.all)
    far = sum(is_far(nusc, box) for boxes in results.values() for box in boxes)
    assert kept == sum(map(len, results.values())) - far
    metrics, _ = evaluation.evaluate()
    assert len(present) >= 9
    for name in present:
        assert metrics.mean_dist_aps[name] == pytest.approx(1.0)
    errors = [metrics.get_label_tp(name, "vel_err") for name in present - {"barrier", "traffic_cone"}]
    assert max(errors) < 1e-9


def test_point_counts_are_what_the_devkit_counts(nusc):
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            counted = int(points_in_box(box, points).sum())
            assert counted == nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            assert counted >= 2
        counts = Counter()
        for channel in (mount.channel for mount in rig.RADARS):
            path, boxes, _ = nusc.get_sample_data(sample["data"][channel])
            points = RadarPointCloud.from_file(path).points[:3]
            assert points.shape[1] >= 1
            for box in boxes:
                counts[box.token] += int(points_in_box(box, points).sum())
        for annotation in sample["anns"]:
            assert counts[annotation] == nusc.get("sample_annotation", annotation)["num_radar_pts"]


def test_velocities_are_those_of_the_world(nusc):
    fast = 0
    for index, record in enumerate(nusc.scene):
        scene, _ = plan(PARAMETERS, index)
        bodies = [body for body in scene.bodies if body.kind.category]
        sample = nusc.get("sample", record["first_sample_token"])
        for keyframe in range(2):
            assert len(sample["anns"]) == len(bodies)
            for name, body in zip(sample["anns"], bodies, strict=True):
                annotation = nusc.get("sample_annotation", name)
                assert annotation["category_name"] == body.kind.category
                assert nusc.box_velocity(name)[:2] == pytest.approx(body.velocity, abs=1e-6)
                assert annotation["translation"][:2] == pytest.approx(body.position(0.5 * keyframe), abs=1e-9)
                fast += body.speed > 1
            sample = nusc.get("sample", sample["next"]) if sample["next"] else sample
    assert fast > 20


def test_radar_sees_the_moving_move(nusc):
    """The compensated velocity of a return in a box is the box's velocity along the line of sight."""
    checked = 0
    for sample in nusc.sample:
        for channel in (mount.channel for mount in rig.RADARS):
            path, boxes, _ = nusc.get_sample_data(sample["data"][channel])
            cloud = RadarPointCloud.from_file(path).points
            data = nusc.get("sample_data", sample["data"][channel])
            pose = nusc.get("ego_pose", data["ego_pose_token"])
            calibration = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
            turn = (Quaternion(pose["rotation"]) * Quaternion(calibration["rotation"])).inverse
            for box in boxes:
                velocity = turn.rotate(nusc.box_velocity(box.token))[:2]
                for point in cloud[:, points_in_box(box, cloud[:3])].T:
                    sight = point[:2] / np.linalg.norm(point[:2])
                    assert point[8:10] @ sight == pytest.approx(velocity @ sight, abs=0.6)
                    checked += np.linalg.norm(velocity) > 1
    assert checked > 5


def test_objects_stay_within_reach_of_the_sensors(nusc):
    per_frame = []
    for sample in nusc.sample:
        per_frame.append(len(sample["anns"]))
        _, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        assert max(np.abs(box.center[:2]).max() for box in boxes) <= 25.0
    assert np.mean(per_frame) >= 12
    names = {category_to_detection_name(row["category_name"]) for row in nusc.sample_annotation}
    assert names == {kind.name for kind in KINDS}
    for annotation in nusc.sample_annotation:
        allowed = detection_name_to_rel_attributes(category_to_detection_name(annotation["category_name"]))
        given = [nusc.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
        assert len(given) == min(len(allowed), 1)
        assert set(given) <= set(allowed)


def test_boxes_show_their_objects_in_the_pictures(nusc):
    """The middle of a well-seen cone's, construction vehicle's or bicycle's box has the hue of its paint."""
    hues = {"movable_object.trafficcone": (5, 30), "vehicle.construction": (25, 45), "vehicle.bicycle": (110, 145)}
    matching = []
    for sample in nusc.sample:
        for channel in (mount.channel for mount in rig.CAMERAS):
            path, boxes, intrinsic = nusc.get_sample_data(sample["data"][channel], box_vis_level=BoxVisibility.ALL)
            picture = np.asarray(Image.open(path).convert("HSV")).astype(int)
            assert picture.shape == (225, 400, 3)
            for box in boxes:
                annotation = nusc.get("sample_annotation", box.token)
                speed = np.linalg.norm(nusc.box_velocity(box.token))
                if box.name not in hues or annotation["visibility_token"] != "4" or speed > 0:
                    continue
                corners = view_points(box.corners(), intrinsic, normalize=True)[:2]
                (u0, v0), (u1, v1) = corners.min(1), corners.max(1)
                inside = picture[round(v0) : round(v1), round(u0) : round(u1)].reshape(-1, 3)
                low, high = hues[box.name]
                painted = (inside[:, 0] >= low) & (inside[:, 0] <= high) & (inside[:, 1] > 110)
                outside_columns = np.r_[
                    max(round(2 * u0 - u1), 0) : round(u0), round(u1) : min(round(2 * u1 - u0), 400)
                ]
                beside = picture[round(v0) : round(v1), outside_columns].reshape(-1, 3)
                around = (beside[:, 0] >= low) & (beside[:, 0] <= high) & (beside[:, 1] > 110)
                matching.append((painted.mean(), around.mean() if len(around) else 0.0))
    inside, beside = np.array(matching).T
    assert len(matching) > 10
    assert np.median(inside) > 0.25
    assert np.quantile(inside, 0.2) > 0.1
    assert beside.mean() < 0.25 * inside.mean()


def test_lidar_points_lie_on_the_ground_or_in_boxes_and_have_their_ring(nusc):
    for sample in nusc.sample[:4]:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        cloud = np.fromfile(path, np.float32).reshape(-1, 5)
        elevation = np.degrees(np.arctan2(cloud[:, 2], np.hypot(cloud[:, 0], cloud[:, 1])))
        assert np.abs(elevation - np.linspace(-30.67, 10.67, 32)[cloud[:, 4].astype(int)]).max() < 0.01
        assert cloud[:, 3].min() >= 0
        assert cloud[:, 3].max() <= 255
        ground = np.abs(cloud[:, 2] + rig.LIDAR.translation[2]) < 0.1
        boxed = np.any([points_in_box(box, cloud[:, :3].T.astype(float), 1.1) for box in boxes], 0)
        assert (ground | boxed).mean() > 0.6  # the rest is clutter
        assert ground.mean() > 0.2


def test_map_mask_and_expansion_agree_with_the_ground(nusc, root):
    record = nusc.map[0]
    assert len(record["log_tokens"]) == len(nusc.log)
    expansion = NuScenesMap(str(root), town.LOCATION)
    assert expansion.extract_polygon(expansion.drivable_area[0]["polygon_tokens"][0]).is_valid
    random = np.random.default_rng(1)
    points = random.uniform(90, 250, (60, 2))
    for x, y in points:
        surface = town.surface_at(x, y)
        layers = expansion.layers_on_point(x, y)
        assert bool(layers["drivable_area"]) == (surface == "road")
        assert bool(record["mask"].is_on_mask(x, y)[0]) == (surface in ("road", "walkway"))
        if surface == "walkway":
            assert layers["walkway"]
        assert bool(layers["carpark_area"]) == (surface == "carpark")
    centre = 2.5 * town.TILE
    masks = expansion.get_map_mask((centre, centre, 100, 100), 0.0, list(SEGMENTATION_LAYERS), (200, 200))
    assert masks.shape == (7, 200, 200)
    assert (masks.reshape(7, -1).sum(1) > 0).all()
    for scene in nusc.scene:
        sample = nusc.get("sample", scene["first_sample_token"])
        pose = nusc.get("ego_pose", sample["data"]["LIDAR_TOP"])
        assert expansion.layers_on_point(*pose["translation"][:2])["drivable_area"]


def test_the_devkit_renders(nusc, tmp_path):
    for channel in ("CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"):
        file = tmp_path / f"{channel}.png"
        nusc.render_sample_data(nusc.sample[0]["data"][channel], out_path=str(file), verbose=False)
        assert file.stat().st_size > 10_000


def test_same_seed_same_bytes_whatever_the_number_of_processes(root, tmp_path):
    generate(tmp_path / "two", scenes=SCENES, seed=SEED, processes=2, progress=False)
    assert content(tmp_path / "two") == content(root)
    generate(tmp_path / "other", scenes=1, seed=SEED + 1, processes=1, progress=False)
    first = next(path for path in sorted(content(tmp_path / "other")) if "LIDAR_TOP" in path)
    assert content(tmp_path / "other")[first] != content(root)[first]


def test_a_folder_is_recognised_by_what_it_was_made_from(root, tmp_path):
    assert matches(root, SCENES, SEED)
    assert not matches(root, SCENES, SEED + 1)
    assert not matches(root)
    assert not matches(tmp_path)


@pytest.mark.parametrize(("scenes", "training"), [(1, 1), (2, 1), (9, 8), (675, 600), (850, 700)])
def test_scenes_keep_the_ratio_of_the_splits(scenes, training):
    from altermoma_ray.data.synthetic.generate import _scene_names

    names = _scene_names(scenes)
    assert len(set(names)) == scenes
    assert sum(name in set(splits.train) for name in names) == training
    assert sum(name in set(splits.val) for name in names) == scenes - training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": 0}, "scenes must be in 1..850, but got 0"),
        ({"scenes": 851}, "scenes must be in 1..850, but got 851"),
        ({"seed": -1}, "seed must be in 0..4294967295, but got -1"),
        ({"processes": 0}, "processes must be at least 1, but got 0"),
        ({"width": 401}, "width must be a multiple of 16"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "set", **{"scenes": 1, **arguments}, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_taken_folder_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    command = [sys.executable, "-m", "altermoma_ray.data.synthetic", "--out", str(tmp_path), "--scenes", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == f"error: {tmp_path} exists and is not an empty folder; choose another folder or remove it\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
