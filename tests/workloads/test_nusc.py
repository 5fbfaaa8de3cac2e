from __future__ import annotations

import pytest

from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.anchors import AnchorTask
from altermoma_ray.tasks.detection.centerpoint import CenterPointTask
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tasks.segmentation.task import SegmentationTask
from altermoma_ray.workloads import nusc


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("bevfusion-mit-toy", DetectionTask),
        ("bevfusion-mit-pointpillars-toy", DetectionTask),
        ("bevfusion-mit-seg-toy", SegmentationTask),
        ("bevfusion-mit-centerpoint-toy", CenterPointTask),
        ("bevfusion-pku-r101-pointpillars-toy", AnchorTask),
    ],
)
def test_the_head_chooses_the_task_which_a_saved_workload_keeps(name, task, tmp_path):
    storage = Location.parse(str(tmp_path))
    workload = nusc.workload(nusc.find(storage, model=name), storage)
    assert type(workload.task) is task
    assert workload.recipe == nusc.RECIPES[name]


def test_any_head_goes_with_any_branch_and_survives_json():
    pillars = configuration("bevfusion-mit-pointpillars-toy")
    fitting = {name: getattr(pillars.head, name) for name in ("bev_size", "cell_size", "origin")}
    config = ModelConfig(
        **{
            **dict(pillars),
            "name": "mine",
            "head": AnchorHeadConfig(anchor_range=(-25.6, -25.6, 25.6, 25.6), **fitting),
        }
    )
    again = ModelConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert type(again.head) is AnchorHeadConfig
    assert type(nusc._task(again)) is AnchorTask


@pytest.mark.parametrize(("name", "disturbed"), [("bevfusion-r-toy", False), ("bevfusion-trio-toy", True)])
def test_only_a_model_with_a_lidar_is_tried_with_fewer_points(name, disturbed, tmp_path):
    storage = Location.parse(str(tmp_path))
    workload = nusc.workload(nusc.find(storage, model=name), storage)
    assert bool(workload.source().disturbances) == disturbed
