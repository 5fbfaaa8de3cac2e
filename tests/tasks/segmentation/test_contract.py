"""Map segmentation keeps every contract of a workload, on a small synthetic nuScenes."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.testing.workload import WorkloadContract
from altermoma_ray.workloads.nusc import CHECKPOINTS, TOY_MAP
from tests.plans import toy_workload


@pytest.fixture(scope="module")
def workload(synthetic_root, tmp_path_factory):
    return toy_workload(tmp_path_factory.mktemp("storage"), synthetic_root, model=TOY_MAP).load()


class TestMapSegmentation(WorkloadContract):
    checkpoint = str(CHECKPOINTS[TOY_MAP])

    @pytest.fixture(autouse=True)
    def _take(self, workload):
        self.workload = workload


def test_a_prediction_equal_to_the_map_scores_one_in_every_class_present(workload):
    data = workload.source()
    data.prepare()
    rows = data.rows("train", limit=4)
    dataset = data.dataset(rows, augment=False, seed=0)
    predictions, present = {}, torch.zeros(6, dtype=torch.bool)
    for position in range(len(rows)):
        batch = data.collate([dataset[position]])
        rasters = torch.stack(batch.rasters)
        predictions |= workload.task.decode({"logits": 20.0 * rasters - 10}, batch)
        present |= rasters.flatten(2).any(2)[0].bool()
    metrics = workload.task.evaluate(predictions, data, rows)
    classes = workload.task.config.classes
    assert {name: metrics[f"iou/{name}"] for name in classes} == dict(
        zip(classes, present.float().tolist(), strict=True)
    )
    assert present.sum() >= 5
