from __future__ import annotations

import numpy as np
import pytest

from altermoma_ray.tasks.detection.iou import iou_bev
from altermoma_ray.tasks.detection.nms import circle_nms, rotated_nms


def random_boxes(count, seed):
    random = np.random.default_rng(seed)
    place, size = random.uniform(-5, 5, (count, 2)), random.uniform(0.5, 4, (count, 3))
    return np.column_stack([place, np.zeros(count), size, random.uniform(-4, 4, count)])


def naive(boxes, is_near, most):
    kept = []
    for row in range(len(boxes)):
        if not any(is_near(boxes[better], boxes[row]) for better in kept):
            kept.append(row)
    return kept[:most]


@pytest.mark.parametrize("most", [4, 100])
def test_both_kinds_against_a_loop(most):
    boxes = random_boxes(60, 0)
    by_distance = naive(boxes, lambda a, b: np.hypot(*(a - b)[:2]) <= 1.5, most)
    assert circle_nms(boxes, 1.5**2, most).tolist() == by_distance
    by_overlap = naive(boxes, lambda a, b: iou_bev(a[None], b[None])[0, 0] > 0.2, most)
    assert rotated_nms(boxes, 0.2, most).tolist() == by_overlap
    assert 4 <= min(len(by_distance), len(by_overlap)) <= most


def test_no_boxes_and_huge_boxes():
    assert circle_nms(np.zeros((0, 9)), 1.0, 5).tolist() == rotated_nms(np.zeros((0, 9)), 0.2, 5).tolist() == []
    boxes = random_boxes(500, 1)
    boxes[:, 3:5] = 2e4  # as a diverged network says
    assert rotated_nms(boxes, 0.2, 83)[0] == 0
