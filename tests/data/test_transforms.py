from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from altermoma_ray.data.transforms import (
    ImageView,
    InputConfig,
    boxes_in_range,
    choose_sweeps,
    drop_close,
    lidar_augmentation,
    normalise,
    points_in_range,
    transform_boxes,
    transform_points,
)

SMALL = InputConfig(image_size=(48, 128), resize_test=0.32, resize_train=(0.28, 0.4), image_rotation=20.0)
seeds = st.integers(0, 2**32 - 1)


def box_corners(box: np.ndarray) -> np.ndarray:
    """Naive: the eight corners, one at a time."""
    x, y, z, length, width, height, yaw = box[:7]
    corners = []
    for along, across, up in itertools.product((-0.5, 0.5), repeat=3):
        a, b = along * length, across * width
        corners.append(
            [x + a * math.cos(yaw) - b * math.sin(yaw), y + a * math.sin(yaw) + b * math.cos(yaw), z + up * height]
        )
    return np.array(corners)


def spot(width: int, height: int, u: float, v: float) -> Image.Image:
    """A white Gaussian spot whose centre of mass is at continuous pixel (u, v)."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    value = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 6.0**2))
    return Image.fromarray(np.repeat(value[..., None], 3, axis=2).round().astype(np.uint8))


def centre_of_mass(image: Image.Image) -> np.ndarray:
    value = np.asarray(image, dtype=float)[..., 0]
    columns, rows = np.meshgrid(np.arange(image.width) + 0.5, np.arange(image.height) + 0.5)
    return np.array([(value * columns).sum(), (value * rows).sum()]) / value.sum()


def test_evaluation_uses_the_published_view():
    view = ImageView.draw(InputConfig(), 1600, 900, None)
    np.testing.assert_allclose(view.matrix(), [[0.48, 0, -32], [0, 0.48, -176], [0, 0, 1]], atol=1e-12)
    assert view.apply(Image.new("RGB", (1600, 900))).size == (704, 256)


def test_bottom_crop_cuts_below_the_picture():
    view = ImageView.draw(InputConfig(bottom_crop=(0.0, 0.2)), 1600, 900, None)
    assert view.corner == (32, int(0.9 * 432) - 256)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, u=st.floats(170, 230), v=st.floats(110, 150))
def test_the_image_matrix_says_where_the_content_goes(seed, u, v):
    view = ImageView.draw(SMALL, 400, 225, np.random.default_rng(seed))
    expected = (view.matrix() @ [u, v, 1])[:2]
    if (expected < 14).any() or (expected > np.array(view.size) - 14).any():
        return  # the spot is cut by the border
    np.testing.assert_allclose(centre_of_mass(view.apply(spot(400, 225, u, v))), expected, atol=0.1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [-15.0, 0.0, 15.0])
def test_mirroring_and_rotation_move_the_content_as_the_matrix_says(flip, degrees):
    view = ImageView(original=(200, 100), resized=(100, 50), corner=(10, 4), size=(80, 40), flip=flip, degrees=degrees)
    for u, v in ((60, 45), (130, 55)):
        expected = (view.matrix() @ [u, v, 1])[:2]
        np.testing.assert_allclose(centre_of_mass(view.apply(spot(200, 100, u, v))), expected, atol=0.1)


@given(seed=seeds)
def test_augmentation_matrices_invert(seed):
    rng = np.random.default_rng(seed)
    for matrix in (ImageView.draw(InputConfig(), 1600, 900, rng).matrix(), lidar_augmentation(InputConfig(), rng)):
        np.testing.assert_allclose(np.linalg.inv(matrix) @ matrix, np.eye(len(matrix)), atol=1e-9)


@given(seed=seeds)
def test_training_draws_stay_in_the_published_ranges(seed):
    rng, inputs = np.random.default_rng(seed), InputConfig()
    view = ImageView.draw(inputs, 1600, 900, rng)
    assert 0.379 <= view.resized[0] / 1600 <= 0.55
    assert abs(view.degrees) <= 5.4
    assert view.corner[1] + 256 == view.resized[1]
    assert 0 <= view.corner[0] <= max(0, view.resized[0] - 704)
    matrix = lidar_augmentation(inputs, rng)
    linear = matrix[:3, :3]
    scale = np.cbrt(abs(np.linalg.det(linear)))
    assert 0.9 <= scale <= 1.1
    np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-9)
    np.testing.assert_allclose(linear[2], [0, 0, scale], atol=1e-9)
    assert abs(matrix[:3, 3]).max() < 6 * 0.5 * 1.1


def test_evaluation_leaves_the_scene_alone():
    np.testing.assert_array_equal(lidar_augmentation(InputConfig(), None), np.eye(4))


@given(seed=seeds)
def test_boxes_move_as_their_corners_do(seed):
    rng = np.random.default_rng(seed)
    matrix = lidar_augmentation(InputConfig(), rng)
    boxes = np.concatenate(
        [
            rng.uniform(-50, 50, (4, 3)),
            rng.uniform(0.3, 8, (4, 3)),
            rng.uniform(-3, 3, (4, 1)),
            rng.normal(0, 5, (4, 2)),
        ],
        1,
    )
    for before, after in zip(boxes, transform_boxes(boxes, matrix), strict=True):
        expected = box_corners(before) @ matrix[:3, :3].T + matrix[:3, 3]
        distance = np.linalg.norm(expected[:, None] - box_corners(after)[None], axis=2)
        assert distance.min(axis=1).max() < 1e-9  # the same set: a mirror exchanges left and right corners
        forward = np.array([math.cos(before[6]), math.sin(before[6]), 0])
        ahead = matrix[:3, :3] @ forward
        assert math.cos(after[6]) * ahead[0] + math.sin(after[6]) * ahead[1] > 0.8
        moved = matrix[:3, :3] @ [*before[7:], 0]
        np.testing.assert_allclose(after[7:], moved[:2], atol=1e-9)


def test_points_keep_their_further_values():
    points = np.array([[1, 2, 3, 40, 5]], np.float32)
    matrix = np.array([[0, -1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    np.testing.assert_allclose(transform_points(points, matrix), [[-1, 1, 3, 40, 5]])
    assert points[0, 0] == 1


def test_normalise_is_the_imagenet_rule_on_rgb():
    image = Image.fromarray(np.array([[[255, 0, 51]]], np.uint8))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(image, InputConfig())[:, 0, 0], expected, rtol=1e-5)


def test_range_filters():
    limits = (-10.0, -10.0, -2.0, 10.0, 10.0, 2.0)
    points = np.array([[0, 0, 0], [10, 0, 0], [0, -10.1, 0], [0, 0, 1.9], [0, 0, 2.1]], np.float32)
    assert points_in_range(points, limits).tolist() == [True, False, False, True, False]
    assert boxes_in_range(points, limits).tolist() == [True, False, False, True, True]


def test_only_points_near_in_both_axes_are_dropped():
    points = np.array([[0.5, 0.5, 9], [0.5, 1.5, 0], [-1.5, 0.5, 0]], np.float32)
    np.testing.assert_array_equal(drop_close(points, 1.0), points[1:])


def test_sweeps_are_the_newest_in_evaluation_and_random_in_training():
    assert choose_sweeps(10, 9, None) == list(range(9))
    assert choose_sweeps(3, 9, np.random.default_rng(0)) == [0, 1, 2]
    draws = {tuple(choose_sweeps(10, 4, np.random.default_rng(seed))) for seed in range(20)}
    assert len(draws) > 10
    assert all(len(set(draw)) == 4 and max(draw) < 10 for draw in draws)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": ("CAM_ROOF", "CAM_ROOF")}, "`cameras` must be distinct names"),
        ({"cameras": ()}, "`cameras` must be distinct names"),
        (
            {"resize_train": (0.6, 0.4)},
            r"`0 < low <= high` must hold for `resize_train`, but got \(low=0.6, high=0.4\)",
        ),
        ({"scale": (0.0, 1.0)}, "`0 < low <= high` must hold for `scale`"),
        ({"bottom_crop": (0.0, 1.0)}, "`0 <= low <= high < 1` must hold for `bottom_crop`"),
        ({"point_range": (0, 0, 0, 1, 1, 0)}, "each axis of `point_range` must have low < high"),
        ({"image_size": (0, 704)}, "`image_size` must be a positive height and width"),
        ({"std": (0.2, 0.0, 0.2)}, "`std` must be positive"),
        ({"sweeps": 12}, "less than or equal to 11"),
        ({"swepes": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_figures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        InputConfig(**change)


def test_figures_survive_json():
    assert InputConfig.model_validate_json(SMALL.model_dump_json()) == SMALL
