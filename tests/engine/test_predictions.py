"""One model's metrics and result files, evaluated in this process."""

from __future__ import annotations

import json
import math

import pytest
import torch

from altermoma_ray.data.synthetic.kitti import generate
from altermoma_ray.engine.predictions.job import check_savable, evaluate_worker, plan_predictions, save_files
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tasks.kitti.metrics import flat
from altermoma_ray.tasks.metrics.kitti import evaluate, read_labels
from altermoma_ray.workloads.nusc import SHIPPED
from altermoma_ray.workloads.reference import find_workload
from tests.plans import toy_workload


def test_kitti_s_result_files_have_the_metrics_of_the_model(tmp_path):
    folder, out = tmp_path / "kitti", Location.parse(tmp_path / "found")
    generate(folder, train=1, val=3, width=624, azimuths=360, processes=1, progress=False)
    reference = find_workload("kitti", str(tmp_path / "storage"), dataroot=str(folder), model="avod-fpn-toy")
    workload = reference.load()
    data = workload.source()
    data.prepare()
    check_savable(workload, out)
    torch.manual_seed(0)
    job = plan_predictions(reference, workload.build(), "all", saves=True)
    assert job.metrics() is None
    evaluate_worker(job)
    assert save_files(job, out) == 3
    truth = data.ground_truth(data.rows("validation"))
    again = flat(evaluate(truth, read_labels(out, list(truth), scored=True)), workload.model.inputs.types)
    assert job.metrics() == pytest.approx(again, nan_ok=True)
    assert sum(len(file.read_text().splitlines()) for file in out.children()) > 0


def test_the_devkit_finds_the_metrics_in_a_results_file(tmp_path, synthetic_root):
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    reference, out = toy_workload(tmp_path / "storage", synthetic_root), Location.parse(tmp_path / "found")
    workload = reference.load()
    workload.source().prepare()
    job = plan_predictions(reference, workload.unpruned(str(SHIPPED)), "all", saves=True)
    evaluate_worker(job)
    assert save_files(job, out) == 1
    file = tmp_path / "found" / "results_nusc.json"
    assert {name for name, is_used in json.loads(file.read_text())["meta"].items() if is_used} == {
        "use_camera",
        "use_lidar",
    }
    devkit = NuScenes("v1.0-trainval", str(synthetic_root), verbose=False)
    official, _ = DetectionEval(
        devkit, config_factory("detection_cvpr_2019"), str(file), "val", str(tmp_path), verbose=False
    ).evaluate()
    assert job.metrics()["map"] == pytest.approx(official.mean_ap, abs=1e-9)
    assert job.metrics()["nds"] == pytest.approx(official.nd_score, abs=1e-6)
    assert math.isfinite(official.mean_ap)
    assert official.mean_ap > 0


def test_metrics_are_found_again_and_result_files_made_when_they_are_wanted(tmp_path, synthetic_root):
    reference = toy_workload(tmp_path / "storage", synthetic_root)
    workload = reference.load()
    workload.source().prepare()
    model = workload.unpruned(str(SHIPPED))
    alone, saving = (plan_predictions(reference, model, "all", saves=saves) for saves in (False, True))
    evaluate_worker(alone)
    assert alone.metrics()["map"] > 0
    assert not alone.files.exists()
    assert saving.metrics() is None
    evaluate_worker(saving)
    assert saving.metrics() == pytest.approx(alone.metrics(), nan_ok=True)
    assert [file.name for file in saving.files.children()] == ["results_nusc.json"]
    assert plan_predictions(reference, model, "reporting", saves=False).metrics() is None


def test_a_folder_with_files_is_refused(tmp_path):
    workload = find_workload("kitti", str(tmp_path / "storage")).load()
    (tmp_path / "found").mkdir()
    check_savable(workload, Location.parse(tmp_path / "found"))
    (tmp_path / "found" / "000001.txt").touch()
    with pytest.raises(UserError, match=r"--save-detections .*found holds files already; give a new or an empty"):
        check_savable(workload, Location.parse(tmp_path / "found"))


def test_a_task_without_result_files_is_refused(tmp_path):
    workload = find_workload("nusc", str(tmp_path), model="bevfusion-mit-seg-toy").load()
    with pytest.raises(UserError, match=r"bevfusion-mit-seg-toy has no result files, .*; leave --save-detections out"):
        check_savable(workload, Location.parse(tmp_path / "found"))
