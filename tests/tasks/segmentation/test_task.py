from __future__ import annotations

import numpy as np
import pytest
import torch

from altermoma_ray.tasks.metrics.nuscenes_segmentation import THRESHOLDS, scores
from altermoma_ray.tasks.segmentation.task import map_focal_loss, overlaps


def test_focal_loss_is_that_of_a_naive_sum():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    targets = (torch.rand(2, 3, 4, 5, generator=generator) > 0.6).float()
    naive = torch.zeros(2, 3)
    for sample, kind, x, y in np.ndindex(2, 3, 4, 5):
        p = logits[sample, kind, x, y].sigmoid()
        p = p if targets[sample, kind, x, y] else 1 - p
        naive[sample, kind] -= (1 - p) ** 2 * p.log() / 20
    torch.testing.assert_close(map_focal_loss(logits, targets, gamma=2.0), naive)


def test_metric_is_that_of_naive_sets():
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(3, 2, 6, 7, generator=generator)
    raster = torch.rand(3, 2, 6, 7, generator=generator) > 0.5
    got = scores([overlaps(*pair) for pair in zip(probability, raster, strict=True)], ["a", "b"])
    for kind, name in enumerate(("a", "b")):
        ious = []
        for threshold in THRESHOLDS:
            found = {place for place in np.ndindex(3, 6, 7) if probability[place[0], kind][place[1:]] >= threshold}
            true = {place for place in np.ndindex(3, 6, 7) if raster[place[0], kind][place[1:]]}
            ious.append(len(found & true) / len(found | true))
        assert got[f"iou/{name}"] == pytest.approx(max(ious))
    assert got["miou"] == pytest.approx((got["iou/a"] + got["iou/b"]) / 2)


def test_the_ground_truth_scores_one_and_an_absent_class_zero():
    raster = torch.zeros(2, 5, 5, dtype=torch.bool)
    raster[0, 2:4] = True
    assert scores([overlaps(raster.float(), raster)], ["there", "absent"]) == {
        "miou": 0.5,
        "iou/there": 1.0,
        "iou/absent": 0.0,
    }
