"""The detection task of KITTI, and the workload of its toy, keep their contracts on synthetic frames."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.models.configurations.avod_fpn import avod_configuration
from altermoma_ray.tasks.kitti.task import KittiTask
from altermoma_ray.testing import TaskContract
from altermoma_ray.testing.workload import WorkloadContract
from altermoma_ray.workloads.kitti import SHIPPED
from altermoma_ray.workloads.reference import find_workload
from tests.tasks.kitti.test_task import perfect

TOY = avod_configuration("avod-fpn-toy")


class TestToy(TaskContract):
    @pytest.fixture(autouse=True)
    def _take(self, kitti):
        self._kitti = kitti

    def make_task(self):
        return KittiTask(TOY)

    def make_model(self):
        torch.manual_seed(0)
        return TOY.build()

    def make_data(self):
        return self._kitti


class TestWorkload(WorkloadContract):
    """The toy with its weights and the frames together; the suites of the parts run on other frames too."""

    checkpoint = str(SHIPPED)

    @pytest.fixture(autouse=True)
    def _take(self, kitti):
        reference = find_workload("kitti", kitti.storage, dataroot=kitti.dataroot, model=TOY.name)
        self.workload = reference.load()


def test_objects_as_predictions_are_worth_more_than_none(kitti):
    """A handful of objects reaches few of the 40 recall points; the official program has the same limit."""
    kitti.prepare()
    task, rows = KittiTask(TOY), kitti.rows("validation")
    dataset = kitti.dataset(rows, augment=False, seed=0)
    batch = kitti.collate([dataset[position] for position in range(len(rows))])
    found = task.decode(perfect(batch), batch)
    metrics = task.evaluate(found, kitti, rows)
    assert metrics["ap-bev"] == pytest.approx(metrics["ap-3d"])
    assert metrics["ap-3d"] > 0
    types = [kind.lower() for kind in TOY.inputs.types]
    assert metrics["ap-3d"] == pytest.approx(sum(metrics[f"ap-3d/{kind}/moderate"] for kind in types) / len(types))
    none = {frame: _without_rows(one) for frame, one in found.items()}
    assert task.evaluate(none, kitti, rows)["ap-3d"] == 0


def _without_rows(labels):
    empty = {field.name: getattr(labels, field.name)[:0] for field in fields(labels)}
    return Labels(**empty)
