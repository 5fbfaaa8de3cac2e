from __future__ import annotations

import math

import numpy as np
import pytest

from altermoma_ray.tasks.detection.heatmap import gaussian_radius, heatmap_target


def draw(centres, sizes, labels, **changes):
    settings = {"classes": 2, "shape": (12, 9), "min_overlap": 0.1, "min_radius": 2, **changes}
    return heatmap_target(np.array(centres, float), np.array(sizes, float), np.array(labels), **settings)


def test_heatmap_against_a_loop_over_pixels():
    random = np.random.default_rng(0)
    centres, sizes = random.uniform(0, [12, 9], (8, 2)), random.uniform(0.3, 9, (8, 2))
    labels = random.integers(0, 2, 8)
    expected = np.zeros((2, 12, 9))
    for (cx, cy), (length, width), label in zip(centres, sizes, labels, strict=True):
        radius = max(2, int(gaussian_radius(np.array([length]), np.array([width]), 0.1)[0]))
        sigma = (2 * radius + 1) / 6
        for x in range(12):
            for y in range(9):
                dx, dy = x - int(cx), y - int(cy)
                if max(abs(dx), abs(dy)) <= radius:
                    heat = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
                    expected[label, x, y] = max(expected[label, x, y], heat)
    np.testing.assert_allclose(draw(centres, sizes, labels), expected, rtol=1e-6)


def test_the_peak_is_exactly_one_at_the_cell_of_the_centre():
    target = draw([[3.9, 7.1]], [[4, 2]], [1])
    assert np.argwhere(target == 1).tolist() == [[1, 3, 7]]


def test_boxes_without_area_leave_no_trace():
    assert not draw([[3, 3]], [[0, 2]], [0]).any()
    assert not draw(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int)).any()


@pytest.mark.parametrize(("length", "width"), [(8.0, 3.0), (2.0, 2.0)])
def test_radius_is_the_least_of_the_published_roots(length, width):
    overlap = 0.1
    total, area = length + width, length * width
    one_corner = (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    inside = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    b = -2 * overlap * total
    around = (b + math.sqrt(b**2 - 16 * overlap * (overlap - 1) * area)) / 2
    assert gaussian_radius(np.array([length]), np.array([width]), overlap)[0] == pytest.approx(
        min(one_corner, inside, around)
    )
