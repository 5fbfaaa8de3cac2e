"""Objects of the certificate: those of real files, found and drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from altermoma_ray.models.configurations.avod_fpn import avod_configuration
from altermoma_ray.tasks.kitti.task import KittiTask


def test_the_truth_finds_every_object_and_each_can_be_drawn(kitti):
    rows = kitti.rows("validation")
    truth = kitti.ground_truth(rows)
    predictions = {frame: replace(labels, scores=np.full(len(labels), 0.5)) for frame, labels in truth.items()}
    told = KittiTask(avod_configuration("avod-fpn-toy")).found_objects(predictions, kitti, rows)
    assert len(told.objects) > 5
    assert {one.score for one in told.objects} == {0.5}
    assert told.false_alarms == ()
    first = told.objects[0]
    picture = kitti.object_picture(first.row, first.name)
    # Two views side by side: the camera's, with the orange lines of the box in both halves, and the one from above.
    orange = (np.array(picture) == (255, 140, 26)).all(axis=2)
    assert picture.size == (560, 280)
    assert orange[:, :280].sum() > 100 < orange[:, 280:].sum()
