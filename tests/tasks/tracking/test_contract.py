"""Tracking keeps every contract of a workload, on a small synthetic nuScenes, with the detector's weights."""

from __future__ import annotations

import pytest

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tasks.tracking.task import TrackingTask
from altermoma_ray.testing.workload import WorkloadContract
from altermoma_ray.workloads.nusc import CHECKPOINTS, SHIPPED, TOY_TRACKS
from tests.plans import toy_workload


@pytest.fixture(scope="module")
def workload(synthetic_root, tmp_path_factory):
    return toy_workload(tmp_path_factory.mktemp("storage"), synthetic_root, model=TOY_TRACKS).load()


class TestTracking(WorkloadContract):
    checkpoint = str(CHECKPOINTS[TOY_TRACKS])

    @pytest.fixture(autouse=True)
    def _take(self, workload):
        self.workload = workload


def test_a_tracker_takes_the_weights_of_its_detector(workload):
    model = workload.unpruned(str(SHIPPED))
    assert model.config == configuration(TOY_TRACKS)
    task = workload.task_for(model)
    assert isinstance(task, TrackingTask)
    assert isinstance(task.detection, DetectionTask)
