"""The bird's-eye map by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from altermoma_ray.data.kitti.bev import bev_map
from altermoma_ray.data.kitti.inputs import KittiInputs

LEVEL = np.array([0.0, -1.0, 0.0, 1.65])


def at(*places: tuple[float, float, float]) -> np.ndarray:
    """Points at x, height over the ground and z."""
    return np.array([(x, 1.65 - up, z, 0.5) for x, up, z in places], np.float32)


def test_size_and_corners():
    inputs = KittiInputs()
    assert inputs.bev_size == (700, 800)
    bev = bev_map(at((-39.95, 0.0, 69.95), (39.95, 0.0, 0.05)), LEVEL, inputs)
    assert bev.shape == (6, 700, 800)
    # Far at the top, the least x at the left.
    assert np.argwhere(bev[5]).tolist() == [[0, 0], [699, 799]]


def test_slices_hold_the_highest_point_over_their_bottom():
    bev = bev_map(at((0.05, 0.0, 10.05), (0.05, 0.2, 10.05), (0.05, 1.05, 10.05)), LEVEL, KittiInputs())
    column = bev[:, 700 - 1 - 100, 400]
    # Slices of 0.5 m from -0.2 on: 0.2 is 0.4 over the first bottom, 1.05 is 0.25 over the third (0.8).
    np.testing.assert_allclose(column[:5], [0.8, 0, 0.5, 0, 0], atol=1e-6)
    assert np.count_nonzero(bev[:5]) == 2


@pytest.mark.parametrize(("count", "density"), [(1, math.log(2) / math.log(16)), (15, 1.0), (40, 1.0)])
def test_density(count, density):
    bev = bev_map(at(*[(0.05, 0.1 + 0.05 * number, 10.05) for number in range(count)]), LEVEL, KittiInputs())
    assert bev[5].max() == pytest.approx(density)


def test_points_below_and_above_all_slices_count_for_nothing():
    bev = bev_map(at((0, -0.21, 10), (0, 2.31, 10), (0, -0.5, 10), (0, 4, 10)), LEVEL, KittiInputs())
    assert not bev.any()
    assert bev_map(at((0, 2.299, 10)), LEVEL, KittiInputs())[4].max() == pytest.approx(0.998, abs=1e-3)


def test_heights_are_over_the_plane_and_not_along_y():
    tilt = 0.1
    plane = np.array([0.0, -math.cos(tilt), math.sin(tilt), 1.65])
    point = np.array([[0.05, 1.0, 20.05, 0.3]], np.float32)
    height = -math.cos(tilt) * 1.0 + math.sin(tilt) * 20.05 + 1.65
    assert not bev_map(point, plane, KittiInputs()).any()
    high = KittiInputs(slice_low=height - 0.25, slice_high=height + 0.25, slices=1)
    assert bev_map(point, plane, high)[0].max() == pytest.approx(0.5, abs=1e-5)


def test_agrees_with_a_plain_loop():
    inputs = KittiInputs(x_range=(-2, 2), z_range=(0, 3), cell=0.5, slices=3)
    random = np.random.default_rng(0)
    points = random.uniform((-2, -1.0, 0, 0), (2, 2.2, 3, 1), (200, 4)).astype(np.float32)
    expected = np.zeros((4, 6, 8))
    thick = (inputs.slice_high - inputs.slice_low) / 3
    for x, y, z, _ in points.astype(np.float64):
        over = 1.65 - y - inputs.slice_low
        if 0 <= over < 3 * thick:
            cell = 5 - int(z // 0.5), int((x + 2) // 0.5)
            number = int(over // thick)
            expected[(number, *cell)] = max(expected[(number, *cell)], over / thick - number)
            expected[(3, *cell)] += 1
    expected[3] = np.minimum(1, np.log(expected[3] + 1) / np.log(16))
    np.testing.assert_allclose(bev_map(points, LEVEL, inputs), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_range": (-40.05, 40)}, r"x_range must be a whole number of cells of 0\.1 m, but got \(-40\.05, 40"),
        ({"z_range": (70, 0)}, r"z_range must be \(low, high\) with low < high, but got \(70"),
        ({"types": ("Car", "Car")}, "types must differ from each other, but got Car, Car"),
        ({"slice_low": 3}, r"slice_low must be below slice_high, but got 3 and 2\.3"),
    ],
)
def test_figures_that_cannot_be(change, message):
    with pytest.raises(ValidationError, match=message):
        KittiInputs(**change)
