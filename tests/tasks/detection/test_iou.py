from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity
from shapely.geometry import box as rectangle

from altermoma_ray.tasks.detection.iou import intersection_area, iou_3d


def ground(row):
    x, y, _, length, width, _, yaw = row
    shape = rectangle(-length / 2, -width / 2, length / 2, width / 2)
    return affinity.translate(affinity.rotate(shape, yaw, origin=(0, 0), use_radians=True), x, y)


def naive_iou(first, second):
    area = ground(first).intersection(ground(second)).area
    top = min(first[2] + first[5] / 2, second[2] + second[5] / 2)
    bottom = max(first[2] - first[5] / 2, second[2] - second[5] / 2)
    overlap = area * max(top - bottom, 0)
    return overlap / (np.prod(first[3:6]) + np.prod(second[3:6]) - overlap)


def random_boxes(count, seed, spread=3.0):
    random = np.random.default_rng(seed)
    return np.concatenate(
        (
            random.uniform(-spread, spread, (count, 2)),
            random.uniform(-1, 1, (count, 1)),
            random.uniform(0.2, 6, (count, 3)),
            random.uniform(-7, 7, (count, 1)),
        ),
        axis=1,
    )


def test_iou_agrees_with_shapely():
    first, second = random_boxes(30, 0), random_boxes(20, 1)
    expected = [[naive_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(iou_3d(first, second), expected, atol=1e-9)


@given(
    st.tuples(*[st.sampled_from([-2.0, -1.0, 0.0, 1.0]) for _ in range(2)]),
    st.tuples(*[st.sampled_from([1.0, 2.0, 3.0]) for _ in range(4)]),
    st.sampled_from([0.0, np.pi / 4, np.pi / 2, -np.pi, 0.3]),
    st.sampled_from([0.0, np.pi / 4, np.pi / 2, 1e-12]),
)
@settings(max_examples=200, deadline=None)
def test_touching_and_coinciding_edges(offset, sizes, yaw, turn):
    first = np.array([[0.0, 0.0, 0.0, sizes[0], sizes[1], 1.0, yaw]])
    second = np.array([[*offset, 0.0, sizes[2], sizes[3], 1.0, yaw + turn]])
    expected = ground(first[0]).intersection(ground(second[0])).area
    assert intersection_area(first, second)[0, 0] == pytest.approx(expected, abs=1e-6)


def test_a_box_covers_itself_however_far_away():
    boxes = random_boxes(10, 2, spread=1e4)
    np.testing.assert_allclose(iou_3d(boxes, boxes).diagonal(), 1, rtol=1e-6)


def test_tiny_boxes_overlap_as_large_ones_do():
    first, second = random_boxes(20, 3), random_boxes(20, 4)
    scale = np.array([1e-5] * 6 + [1])
    small = intersection_area(first * scale, second * scale)
    np.testing.assert_allclose(small, intersection_area(first, second) * 1e-10, rtol=1e-6, atol=1e-22)


def test_the_area_is_exact_where_nothing_needs_rounding():
    first = np.array([[1.5, 20.0, 0.0, 5.0, 2.0, 1.0, 0.0]])
    second = np.array([[2.25, 20.25, 0.0, 3.5, 2.0, 1.0, 0.0]])
    assert intersection_area(first, second).item() == 3.5 * 1.75


def test_no_boxes():
    assert iou_3d(np.zeros((0, 7)), random_boxes(3, 0)).shape == (0, 3)
    assert iou_3d(random_boxes(3, 0), np.zeros((0, 9))).shape == (3, 0)
