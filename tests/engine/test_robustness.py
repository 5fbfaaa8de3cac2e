"""Robustness reports, measured in this process."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from altermoma_ray.engine.robustness.job import check_subjects, conditions, plan_report
from altermoma_ray.engine.robustness.measure import measure_worker
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location
from altermoma_ray.workloads.nusc import SHIPPED
from altermoma_ray.workloads.reference import find_workload
from tests.plans import toy_workload

TWO_BRANCH = f"{Path(__file__).parents[1] / 'workloads' / 'two_branch.py'}:WORKLOAD"


def test_every_model_is_measured_under_every_condition(tmp_path):
    reference = find_workload(TWO_BRANCH, str(tmp_path))
    workload = reference.load()
    pruned = workload.unpruned()
    with torch.no_grad():
        pruned.radar[0].weight[::2] = 0
    job = plan_report(reference, workload.unpruned(), {"storage/pruned": pruned}, "reporting")
    assert job.read() is None
    measure_worker(job)
    report = job.read()
    assert list(report.conditions.values()) == ["as is", "audio lost", "radar lost"]
    assert report.models == {"unpruned": "", "pruned-1": "storage/pruned"}
    assert report.samples == 20

    data = workload.source()
    evaluator = Evaluator(data, data.rows("validation", "reporting"), batch_size=20)
    for label, model in (("unpruned", workload.unpruned()), ("pruned-1", pruned)):
        for name, masked in (("as is", frozenset()), ("without-audio", {"audio"}), ("without-radar", {"radar"})):
            (found,) = [one for one in report.measured if (one.model, one.condition) == (label, name)]
            assert found.figures == pytest.approx(evaluator(model, workload.task, masked=frozenset(masked)))
    rows = list(csv.DictReader((job.folder.join("robustness.csv")).read_bytes().decode().splitlines()))
    assert [(row["model"], row["condition"]) for row in rows[::3]] == [
        ("unpruned", "as is"),
        ("storage/pruned", "as is"),
    ]
    assert float(rows[0]["error"]) == pytest.approx(report.metrics()["unpruned/as-is/error"])


def test_a_report_is_found_again_by_what_it_was_measured_on(tmp_path):
    reference = find_workload(TWO_BRANCH, str(tmp_path))
    model, other = reference.load().unpruned(), reference.load().unpruned()
    with torch.no_grad():
        other.head[1].bias += 1
    folders = [
        plan_report(reference, unpruned, {}, part).folder.name
        for unpruned, part in ((model, "all"), (model, "all"), (other, "all"), (model, "tuning"))
    ]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


def test_nuscenes_adds_what_a_lidar_may_lose(tmp_path, synthetic_root):
    reference = toy_workload(tmp_path, synthetic_root)
    workload = reference.load()
    workload.source().prepare()
    job = plan_report(reference, workload.unpruned(str(SHIPPED)), {}, "all")
    measure_worker(job)
    report = job.read()
    assert list(report.conditions) == [
        *("as is", "without-lidar", "without-camera", "lidar-60", "lidar-90", "objects-half"),
    ]
    found = {one.condition: one.figures["nds"] for one in report.measured}
    assert found["as is"] == max(found.values())
    assert len(set(found.values())) == 6


def test_a_data_source_without_disturbances_has_none(tmp_path):
    workload = find_workload(TWO_BRANCH, str(tmp_path)).load()
    assert [one.disturbance for one in conditions(workload).values()] == [None] * 3


def test_a_pruned_model_of_another_task_is_refused(tmp_path, synthetic_root):
    workload = toy_workload(tmp_path, synthetic_root).load()
    file = Location.parse(tmp_path / "seg.safetensors")
    save_checkpoint(file, configuration("bevfusion-mit-seg-toy").build(), {})
    model, _ = workload.load(file)
    with pytest.raises(UserError) as raised:
        check_subjects(workload, {"/data/seg.safetensors": model})
    documented = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert f"`error: {raised.value}`" in documented
