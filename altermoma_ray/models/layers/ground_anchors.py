"""Anchors on the ground plane, and their places in both views (Ku et al., AVOD, IROS 2018).

Frame: the rectified camera's, x right, y down, z forward (m). A plane a, b, c, d is ``a x + b y + c z + d = 0`` with a
normal of length 1 that points up, so that the left side is a point's height above the plane.

An anchor is a row ``x, y, z`` of its bottom's centre and ``dx, dy, dz``, its sides along the axes. A place in a view is
a row left, top, right, bottom as shares of the view's width and height.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.models.configurations.avod import ProposalConfig

LOG_SIZE_LIMIT = 10.0
"""Decoded log sizes are clamped to ± this limit: a diverged network then still gives finite, positive sizes."""
NEAREST = 0.1
"""Least depth (m) of a corner that is projected: a corner behind the camera would appear on the wrong side."""


class GroundAnchors(nn.Module):
    """The anchors of a frame: a grid of all sizes and headings, without the anchors in whose area no point stands.

    Args:
        config: stride and sizes, and the heights between which a point counts.
        inputs: area and cells of the bird's-eye view.
    """

    shapes: Tensor
    grid: Tensor

    def __init__(self, config: ProposalConfig, inputs: KittiInputs) -> None:
        super().__init__()
        self.config, self.inputs = config, inputs
        # Heading 0 has its length along x, heading 90° along z.
        shapes = [
            (length, height, width) if along_x else (width, height, length)
            for sizes in config.sizes
            for length, width, height in sizes
            for along_x in (True, False)
        ]
        x, z = (
            torch.arange(low + config.stride / 2, high, config.stride, dtype=torch.float64)
            for low, high in (inputs.x_range, inputs.z_range)
        )
        # Not in the checkpoint: geometry follows from the configuration.
        self.register_buffer("shapes", torch.tensor(shapes), persistent=False)
        self.register_buffer("grid", torch.cartesian_prod(z.flip(0), x)[:, [1, 0]].float(), persistent=False)

    def forward(self, plane: Tensor, points: Tensor) -> Tensor:
        """The anchors [A, 6] of a frame that are not empty.

        Args:
            plane: [4] the ground.
            points: [P, 3+] x, y, z.
        """
        anchors = self.on_ground(plane)
        return anchors[self._counts(plane, points, anchors) > 0]

    def on_ground(self, plane: Tensor) -> Tensor:
        """All anchors, empty ones included: from far to near, x running faster, then size, then heading."""
        a, b, c, d = plane.unbind()
        x, z = self.grid.unbind(1)
        place = torch.stack((x, -(a * x + c * z + d) / b, z), dim=1)
        pairs = (len(place), len(self.shapes), 3)
        return torch.cat((place[:, None].expand(pairs), self.shapes.expand(pairs)), dim=2).flatten(0, 1)

    def _counts(self, plane: Tensor, points: Tensor, anchors: Tensor) -> Tensor:
        """How many cells that an anchor touches hold a point, [A]."""
        inputs = self.inputs
        low = plane.new_tensor((inputs.x_range[0], inputs.z_range[0]))
        high = plane.new_tensor((inputs.x_range[1], inputs.z_range[1]))
        cells = ((high - low) / inputs.cell).round().long()
        height = points[:, :3] @ plane[:3] + plane[3]
        stand = points[(height >= self.config.ground_gap) & (height < self.config.ceiling)]
        place = ((stand[:, [0, 2]] - low) / inputs.cell).floor().long()
        place = place[((place >= 0) & (place < cells)).all(dim=1)]
        taken = torch.zeros(*cells.tolist(), dtype=torch.int32, device=plane.device)
        taken[place[:, 0], place[:, 1]] = 1
        # Sums from the first cell on: the count of any rectangle is made of four of them.
        sums = nn.functional.pad(taken.cumsum(0).cumsum(1), (1, 0, 1, 0))
        centre, half = anchors[:, [0, 2]], anchors[:, [3, 5]] / 2
        first = ((centre - half - low) / inputs.cell).floor().long().clamp(min=0)
        last = ((centre + half - low) / inputs.cell).ceil().long()
        (i, j), (k, m) = torch.minimum(first, cells).unbind(1), torch.minimum(last, cells).unbind(1)
        return sums[k, m] - sums[i, m] - sums[k, j] + sums[i, j]


def map_shape(config: ProposalConfig, inputs: KittiInputs) -> tuple[int, int]:
    """Places of anchors along x and along z, as in :attr:`GroundAnchors.grid`."""
    (left, right), (near, far) = inputs.x_range, inputs.z_range
    return math.ceil((right - left) / config.stride - 0.5), math.ceil((far - near) / config.stride - 0.5)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Changes [..., 6] of anchors [..., 6] to boxes [..., 6]: moves in sizes of the anchor, logarithms of size ratios.

    >>> anchor = torch.tensor([0.0, 0.0, 10.0, 4.0, 2.0, 2.0])
    >>> encode(torch.tensor([2.0, 0.0, 11.0, 4.0, 2.0, 2.0]), anchor)
    tensor([0.5000, 0.0000, 0.5000, 0.0000, 0.0000, 0.0000])
    """
    moves = (boxes[..., :3] - anchors[..., :3]) / anchors[..., 3:]
    return torch.cat((moves, (boxes[..., 3:] / anchors[..., 3:]).log()), dim=-1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The boxes [..., 6] of changes [..., 6]: the inverse of :func:`encode`."""
    sizes = offsets[..., 3:].clamp(-LOG_SIZE_LIMIT, LOG_SIZE_LIMIT).exp() * anchors[..., 3:]
    return torch.cat((offsets[..., :3] * anchors[..., 3:] + anchors[..., :3], sizes), dim=-1)


def rectangles(anchors: Tensor) -> Tensor:
    """Rectangles [..., 4] of anchors [..., 6] on the ground: least x, least z, greatest x, greatest z (m)."""
    centre, half = anchors[..., [0, 2]], anchors[..., [3, 5]] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def places_in_bev(anchors: Tensor, inputs: KittiInputs) -> Tensor:
    """Places [A, 4] of anchors [A, 6] in a bird's-eye view whose first row is the farthest."""
    (left, right), (near, far) = inputs.x_range, inputs.z_range
    low_x, low_z, high_x, high_z = rectangles(anchors).unbind(1)
    width, depth = right - left, far - near
    sides = ((low_x - left) / width, (far - high_z) / depth, (high_x - left) / width, (far - low_z) / depth)
    return torch.stack(sides, dim=1)


def places_in_picture(anchors: Tensor, projection: Tensor, size: tuple[int, int]) -> Tensor:
    """Places [A, 4] of anchors [A, 6] in a picture: the rectangles about their eight projected corners.

    Args:
        anchors: [A, 6].
        projection: [3, 4] from the frame to pixels.
        size: height, width of the picture (px).
    """
    frames = frames_of(anchors[:, None, :3] + unit_corners(anchors) * anchors[:, None, 3:], projection)
    height, width = size
    return frames / anchors.new_tensor((width, height, width, height))


def unit_corners(like: Tensor) -> Tensor:
    """The corners [8, 3] of a cube of side 1 that stands on the origin; y points down.

    Args:
        like: gives type and device.
    """
    return like.new_tensor([(x, y, z) for x in (-0.5, 0.5) for y in (-1.0, 0.0) for z in (-0.5, 0.5)])


def frames_of(corners: Tensor, projection: Tensor) -> Tensor:
    """Rectangles [B, 4] about projected corners: left, top, right, bottom (px).

    Args:
        corners: [B, 8, 3] (m); a depth below :data:`NEAREST` counts as that.
        projection: [3, 4].
    """
    corners = torch.cat((corners[..., :2], corners[..., 2:].clamp(min=NEAREST)), dim=-1)
    homogeneous = corners @ projection[:, :3].T + projection[:, 3]
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    return torch.cat((pixels.amin(dim=1), pixels.amax(dim=1)), dim=1)
