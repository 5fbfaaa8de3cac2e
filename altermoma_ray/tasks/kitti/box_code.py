"""The box code of AVOD: four corners on the ground, two heights, and a heading (Ku et al., IROS 2018, section III-D).

A *box* is a row ``x, y, z`` of its bottom's centre (m, rectified camera frame: x right, y down, z forward), ``length,
width, height`` (m), ``rotation_y`` (rad; 0 heads along +x, -π/2 along +z). A *code* is a row of ten numbers: x of the
corners 1 to 4, z of the corners 1 to 4, heights of the bottom and of the top above the ground (m). A *plane* a, b, c, d
is the ground ``a x + b y + c z + d = 0``.

A code has no front: its corners begin at the right angle next to the heading, so that boxes of all headings have codes
near those of axis-aligned proposals. Back from a code, the longest line between the middles of opposite sides gives the
heading's line; the predicted heading chooses among the four turns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_RIGHT = math.pi / 2


def axis_aligned(boxes: Tensor) -> Tensor:
    """Anchors [..., 6] of boxes [..., 7] turned to the next right angle: x, y, z of the bottom, sides along the axes.

    >>> axis_aligned(torch.tensor([1.0, 2.0, 3.0, 4.0, 1.5, 1.6, -1.4])).tolist()[3:]
    [1.5, 1.600000023841858, 4.0]
    """
    is_across = _quarter_turns(boxes[..., 6]) % 2 == 1
    length, width, height = boxes[..., 3:6].unbind(-1)
    along_x, along_z = torch.where(is_across, width, length), torch.where(is_across, length, width)
    return torch.cat((boxes[..., :3], torch.stack((along_x, height, along_z), dim=-1)), dim=-1)


def boxes_of_proposals(proposals: Tensor) -> Tensor:
    """Boxes [..., 7] of anchors [..., 6]: the longer side is the length, the heading 0 or -π/2."""
    along_x, height, along_z = proposals[..., 3:].unbind(-1)
    is_across = along_z > along_x
    sides = (torch.where(is_across, along_z, along_x), torch.where(is_across, along_x, along_z), height)
    heading = torch.where(is_across, -_RIGHT, 0.0).to(proposals)
    return torch.cat((proposals[..., :3], torch.stack((*sides, heading), dim=-1)), dim=-1)


def encode(boxes: Tensor, plane: Tensor) -> Tensor:
    """Codes [..., 10] of boxes [..., 7].

    Args:
        boxes: [..., 7].
        plane: [4].
    """
    aligned = axis_aligned(boxes)
    half_x, half_z = aligned[..., 3:4] / 2, aligned[..., 5:6] / 2
    x = half_x * boxes.new_tensor((1, 1, -1, -1))
    z = half_z * boxes.new_tensor((1, -1, -1, 1))
    # What is left of the heading beside the next right angle, between -45° and 45°.
    rest = (boxes[..., 6] - _RIGHT * _quarter_turns(boxes[..., 6]))[..., None]
    corners_x = x * rest.cos() + z * rest.sin() + boxes[..., 0:1]
    corners_z = z * rest.cos() - x * rest.sin() + boxes[..., 2:3]
    bottom = _ground(boxes[..., 0], boxes[..., 2], plane) - boxes[..., 1]
    heights = torch.stack((bottom, bottom + boxes[..., 5]), dim=-1)
    return torch.cat((corners_x, corners_z, heights), dim=-1)


def decode(codes: Tensor, plane: Tensor) -> Tensor:
    """Boxes [..., 7] of codes [..., 10], whose headings lie on the heading's line, in one of two directions.

    A code's corners need not be a rectangle's: the box is the smallest around them with a side along the line. The
    published code moves the box off the centre of such corners by half of what they stick out to one side.

    Args:
        codes: [..., 10].
        plane: [4].
    """
    corners = torch.stack((codes[..., :4], codes[..., 4:8]), dim=-1)  # [..., 4, 2]: x, z
    one, two, three, four = corners.unbind(-2)
    first, second = (one + two - three - four) / 2, (one + four - two - three) / 2
    is_first = first.norm(dim=-1, keepdim=True) > second.norm(dim=-1, keepdim=True)
    line = torch.where(is_first, first, second)
    heading = -torch.atan2(line[..., 1], line[..., 0])
    ahead = torch.stack((heading.cos(), -heading.sin()), dim=-1)
    aside = torch.stack((-ahead[..., 1], ahead[..., 0]), dim=-1)
    centre, sides = corners.new_zeros(line.shape), []
    for direction in (ahead, aside):
        along = (corners * direction[..., None, :]).sum(dim=-1)
        low, high = along.amin(dim=-1), along.amax(dim=-1)
        centre = centre + direction * ((low + high) / 2)[..., None]
        sides.append(high - low)
    x, z = centre.unbind(-1)
    y = _ground(x, z, plane) - codes[..., 8]
    return torch.stack((x, y, z, *sides, codes[..., 9] - codes[..., 8], heading), dim=-1)


def turned(boxes: Tensor, headings: Tensor) -> Tensor:
    """The boxes [..., 7], each turned by the multiple of 90° that brings it next to a heading.

    A turn by 90° either way swaps length and width: the rectangle stays where it is. The published code turns boxes by
    90° to the wrong side; their average precision is the same, their heading opposite.

    >>> turned(torch.tensor([0.0, 0, 9, 4, 2, 1.5, 0.1]), torch.tensor(1.6)).tolist()[3:5]
    [2.0, 4.0]

    Args:
        boxes: [..., 7].
        headings: [...] rad.

    Returns:
        [..., 7] with headings in (-π, π].
    """
    turns = _quarter_turns(headings - boxes[..., 6])
    heading = boxes[..., 6] + _RIGHT * turns
    is_swapped = (turns % 2 == 1)[..., None]
    ground = torch.where(is_swapped, boxes[..., [4, 3]], boxes[..., [3, 4]])
    wrapped = torch.atan2(heading.sin(), heading.cos())[..., None]
    return torch.cat((boxes[..., :3], ground, boxes[..., 5:6], wrapped), dim=-1)


def _quarter_turns(angles: Tensor) -> Tensor:
    """The multiple of 90° next to an angle."""
    return (angles / _RIGHT).round()


def _ground(x: Tensor, z: Tensor, plane: Tensor) -> Tensor:
    """y of the ground at x and z."""
    a, b, c, d = plane.unbind()
    return -(a * x + c * z + d) / b
