from __future__ import annotations

import math

import pytest
import torch

from altermoma_ray.tasks.kitti.box_code import axis_aligned, boxes_of_proposals, decode, encode, turned
from tests.kitti_frames import plane_of

LEVEL = torch.tensor([0.0, -1.0, 0.0, 1.65])
HEADINGS = torch.linspace(-math.pi, math.pi, 73)[1:]
"""All multiples of 5°, those between two right angles included."""


def box(heading=0.0, length=4.0, width=2.0, x=3.0, y=1.65, z=20.0, height=1.5):
    return torch.tensor([x, y, z, length, width, height, heading])


@pytest.mark.parametrize(("length", "width"), [(4.0, 1.8), (0.6, 0.9)])
def test_a_box_of_any_heading_comes_back(length, width):
    """The second size is wider than long, as some pedestrians are: the line through the longer side lies across."""
    plane = plane_of(3).double()
    boxes = torch.stack([box(float(heading), length, width) for heading in HEADINGS]).double()
    found = turned(decode(encode(boxes, plane), plane), boxes[:, 6])
    assert torch.allclose(found[:, :6], boxes[:, :6], atol=1e-9)
    around = (found[:, 6] - boxes[:, 6]).abs() % (2 * math.pi)
    assert torch.minimum(around, 2 * math.pi - around).max() < 1e-9


def test_a_code_by_hand():
    # Heading 0: the length lies along x. Corners: right far, right near, left near, left far.
    wanted = [5, 5, 1, 1, 21, 19, 19, 21, 0.15, 1.65]
    assert encode(box(y=1.5), LEVEL).tolist() == pytest.approx(wanted)
    # A small turn from +x towards -z: the right end comes nearer.
    tilted = encode(box(heading=0.1), LEVEL)
    assert tilted[4] < 21
    assert tilted[5] < 19
    # Turned by 90° the length lies along z, and the corners' order stays.
    assert encode(box(heading=math.pi / 2, y=1.5), LEVEL).tolist() == pytest.approx(
        [4, 4, 2, 2, 22, 18, 18, 22, 0.15, 1.65], abs=1e-5
    )


def test_heights_are_above_the_ground():
    plane = plane_of(1)
    on_ground = -(plane[0] * 3 + plane[2] * 20 + plane[3]) / plane[1]
    code = encode(box(y=float(on_ground) - 0.4), plane)
    assert code[8:].tolist() == pytest.approx([0.4, 1.9], abs=1e-5)


def test_the_code_of_a_heading_is_near_that_of_the_right_angle_beside_it():
    for heading in (0.0, math.pi / 2, math.pi, -math.pi / 2):
        at, beside = encode(box(heading), LEVEL), encode(box(heading + 0.05), LEVEL)
        assert (at - beside).abs().max() < 0.15


def test_axis_aligned_boxes_and_back():
    assert axis_aligned(box(heading=0.7)).tolist() == pytest.approx([3, 1.65, 20, 4, 1.5, 2])
    assert axis_aligned(box(heading=0.9)).tolist() == pytest.approx([3, 1.65, 20, 2, 1.5, 4])
    proposals = torch.tensor([[3.0, 1.65, 20, 4, 1.5, 2], [3.0, 1.65, 20, 2, 1.5, 4]])
    boxes = boxes_of_proposals(proposals)
    assert boxes[:, 6].tolist() == pytest.approx([0, -math.pi / 2])
    assert torch.allclose(axis_aligned(boxes), proposals)


@pytest.mark.parametrize(
    ("heading", "sides", "found"),
    [
        (0.2, (4, 2), 0.1),
        (1.6, (2, 4), 0.1 + math.pi / 2),
        (-1.6, (2, 4), 0.1 - math.pi / 2),
        (3.1, (4, 2), 0.1 - math.pi),
        (-3.0, (4, 2), 0.1 - math.pi),
    ],
)
def test_four_turns(heading, sides, found):
    result = turned(box(heading=0.1), torch.tensor(heading))
    assert result[3:5].tolist() == pytest.approx(sides)
    assert float(result[6]) == pytest.approx(found, abs=1e-5)


def test_corners_that_are_no_rectangle_get_the_smallest_one_around_them():
    code = encode(box(), LEVEL)
    code[0] += 0.5  # the right far corner sticks out along the length
    code[4] += 0.1  # and a little to the side
    found = decode(code, LEVEL)
    heading = float(found[6])
    ahead = torch.tensor([math.cos(heading), -math.sin(heading)])
    aside = torch.tensor([-ahead[1], ahead[0]])
    corners = torch.stack((code[:4], code[4:8]), 1) - found[[0, 2]]
    for direction, side in ((ahead, found[3]), (aside, found[4])):
        along = corners @ direction
        assert float(along.max()) == pytest.approx(float(side) / 2, abs=1e-5)
        assert float(along.min()) == pytest.approx(-float(side) / 2, abs=1e-5)
