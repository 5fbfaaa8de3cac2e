"""Tracking keeps every contract of a workload, on a small synthetic nuScenes, with the detector's weights."""

from __future__ import annotations

import pytest

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tasks.tracking.task import TrackingTask
from altermoma_ray.testing.data_source import DataSourceContract
from altermoma_ray.testing.workload import WorkloadContract
from altermoma_ray.workloads.nusc import CHECKPOINTS, SHIPPED, TOY_TRACKS
from tests.plans import toy_workload


@pytest.fixture(scope="module")
def workload(synthetic_root, tmp_path_factory):
    return toy_workload(tmp_path_factory.mktemp("storage"), synthetic_root, model=TOY_TRACKS).load()


class TestWholeScenes(DataSourceContract):
    @pytest.fixture(autouse=True)
    def _take(self, workload):
        self._source = workload.source()

    def make_data(self):
        return self._source


@pytest.mark.slow
class TestTracking(WorkloadContract):
    checkpoint = str(CHECKPOINTS[TOY_TRACKS])

    @pytest.fixture(autouse=True)
    def _take(self, workload):
        self.workload = workload


def test_the_evaluation_keeps_the_contract(workload):
    """Model and losses are the detector's, whose suites always run; the evaluation is tracking's own."""
    suite = WorkloadContract()
    suite.workload, suite.checkpoint = workload, str(CHECKPOINTS[TOY_TRACKS])
    suite.test_exactly_the_listed_metrics_are_evaluated()


def test_a_tracker_takes_the_weights_of_its_detector(workload):
    model = workload.unpruned(str(SHIPPED))
    assert model.config == configuration(TOY_TRACKS)
    task = workload.task_for(model)
    assert isinstance(task, TrackingTask)
    assert isinstance(task.detection, DetectionTask)


def test_a_limit_keeps_scenes_whole(workload):
    """A tracker would take the frames between for missed ones."""
    data = workload.source()
    data.prepare()
    scenes = data.index().scenes()
    train = data.rows("train")
    assert len({scenes[row] for row in data.rows("train", limit=4)}) == 4
    assert data.rows("train", limit=len(train)) == train
    one = data.rows("validation", limit=1)
    assert one == data.rows("validation")[:1]
