"""The encoding of radar returns, written out, and how augmentations move them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altermoma_ray.data.radar import COLUMNS, VALUES, advance, encode, transform_returns


def make_return(**columns):
    point = np.zeros((1, len(COLUMNS)), np.float32)
    for name, value in columns.items():
        point[0, COLUMNS.index(name)] = value
    return point


def test_a_return_has_45_values_in_the_published_order():
    measured = dict(zip(("x", "y", "z", "rcs", "vx_comp", "vy_comp"), (1, 2, 3, 4, 5, 6), strict=True))
    raw = make_return(**measured, vx=70, vy=80, id=9, dyn_prop=6, ambig_state=4, invalid_state=17, pdh0=3)
    values = encode(raw, age=0.25)
    assert values.shape == (1, VALUES) == (1, 45)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[0, :7], [1, 2, 3, 4, 5, 6, 0.25])
    expected = [*np.eye(8)[6], *np.eye(5)[4], *np.eye(18)[17], *([1] * 3 + [0] * 4)]
    np.testing.assert_array_equal(values[0, 7:], expected)


@pytest.mark.parametrize("column", ["dyn_prop", "ambig_state", "invalid_state"])
def test_an_unknown_code_has_no_one(column):
    assert encode(make_return(**{column: 99}), 0.0)[0, 7:].sum() == 2
    assert encode(make_return(), 0.0)[0, 7:].sum() == 3


def test_velocity_turns_flips_and_scales_with_the_scene_and_the_cross_section_stays():
    """The published augmentation takes the cross section and the velocity's x for the velocity."""
    values = encode(make_return(x=10, y=0, rcs=7, vx_comp=2, vy_comp=1), age=0.1)
    angle = math.pi / 2
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    turn[:3, 3] = (5, 6, 7)
    moved = transform_returns(values, np.diag([-1.0, 1, 1, 1]) @ np.diag([1.1, 1.1, 1.1, 1]) @ turn)
    np.testing.assert_allclose(moved[0, :7], [-5.5, 17.6, 7.7, 7, 1.1, 2.2, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(moved[0, 6:], values[0, 6:])


def test_a_return_moves_on_by_its_velocity():
    values = encode(make_return(x=10, y=-4, z=1, vx_comp=2, vy_comp=-1), age=0.5)
    np.testing.assert_allclose(advance(values, 0.5)[0, :6], [11, -4.5, 1, 0, 2, -1])
    assert values[0, 0] == 10
