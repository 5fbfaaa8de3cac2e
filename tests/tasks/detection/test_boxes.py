from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altermoma_ray.models.configurations.transfusion import Height
from altermoma_ray.tasks.detection.boxes import BevGrid, decode_boxes, encode_boxes

GRID = BevGrid(origin=(-54.0, -27.0), cell=(0.6, 0.3), shape=(180, 180))


def number(low, high):
    return st.floats(low, high, allow_nan=False)


@given(
    st.tuples(*[number(-60, 60)] * 3, *[number(0.05, 30)] * 3, number(-math.pi + 1e-3, math.pi), *[number(-40, 40)] * 2)
)
@settings(max_examples=100, deadline=None)
def test_a_box_survives_its_code(box):
    boxes = torch.tensor([box], dtype=torch.float64)
    for height in get_args(Height):
        found = decode_boxes(encode_boxes(boxes, GRID, height), GRID, height)
        torch.testing.assert_close(found, boxes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("height", "z"), [("bottom", 0.25), ("centre", 1.0), ("top", 1.75)])
def test_the_height_of_a_code_is_that_of_its_convention(height, z):
    box = torch.tensor([[-53.4, -26.4, 1.0, 4.0, 2.0, 1.5, math.pi / 2, 3.0, 1.0]])
    code, usual = encode_boxes(box, GRID, height), encode_boxes(box, GRID)
    assert code[0, 2].item() == z
    others = [column for column in range(10) if column != 2]
    assert torch.equal(code[:, others], usual[:, others])


def test_code_is_as_published():
    code = encode_boxes(torch.tensor([[-53.4, -26.4, 1.0, 4.0, 2.0, 1.5, math.pi / 2, 3.0, math.nan]]), GRID)[0]
    expected = [1.0, 2.0, 1.0, math.log(4), math.log(2), math.log(1.5), 1.0, 0.0, 3.0, math.nan]
    torch.testing.assert_close(code, torch.tensor(expected), equal_nan=True, atol=1e-5, rtol=1e-5)


def test_sizes_of_a_diverged_network_stay_positive_and_finite():
    codes = torch.zeros(1, 10)
    codes[0, 3], codes[0, 4] = 1e4, -1e4
    size = decode_boxes(codes, GRID)[0, 3:5]
    assert size.isfinite().all()
    assert (size > 0).all()


def test_contains_looks_at_the_centre():
    boxes = torch.zeros(4, 9)
    boxes[:, 3:6] = 9.0
    boxes[:, 0] = torch.tensor([-54.0, -54.1, 53.9, 54.0])
    assert GRID.contains(boxes).tolist() == [True, False, True, False]
