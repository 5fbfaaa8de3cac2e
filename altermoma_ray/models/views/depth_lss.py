"""Depth-aware "lift, splat": image features to a bird's-eye-view (BEV) map.

Notation: N samples, C cameras, M = N·C pictures of H × W pixels; h × w feature cells of a picture (an eighth of its
size); D depth bins; F channels. A *frustum point* is a feature cell at a depth bin. BEV maps are [N, channel, x, y].

Sources: Philion and Fidler, *Lift, Splat, Shoot*, ECCV 2020 (Sec. 3); Liu et al., *BEVFusion*, ICRA 2023 (depth
painted from LiDAR). Conventions of the released weights are kept: a BEV cell is the distance from the grid's lower
edge over the step truncated toward zero, so a point up to one step below the edge falls in the first cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.camera import LiftConfig
from altermoma_ray.models.configurations.coarse_lift import CoarseLiftConfig
from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.configurations.section import cells
from altermoma_ray.models.layers.blocks import convolution, initialise

STRIDE = 8
"""Pixels a feature cell, but for coarse features."""
AnyLift = LiftConfig | HeightLiftConfig | CoarseLiftConfig


class DepthLss(nn.Module):
    """Image features [M, neck, h, w] and a batch's points and calibration to a BEV map [N, channels, x, y]."""

    grid_step: Tensor
    grid_first_centre: Tensor
    grid_cells: Tensor
    frustum: Tensor

    def __init__(self, config: AnyLift, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.stride: tuple[int, int] = (STRIDE, STRIDE)
        """Pixels a feature cell, along the height and the width of a picture."""
        axes = (config.grid_x, config.grid_y, config.grid_z)
        self.grid_shape = tuple(cells(axis) for axis in axes)
        self.register_buffer("grid_step", torch.tensor([step for _, _, step in axes]))
        self.register_buffer("grid_first_centre", torch.tensor([lower + step / 2 for lower, _, step in axes]))
        self.register_buffer("grid_cells", torch.tensor(self.grid_shape))
        self.register_buffer("frustum", make_frustum(self._frustum_size(config), config.depth_bins))
        self.bins = len(self.frustum)

        self._make_lift(config)
        self.downsample = nn.Sequential(*self._bev_layers(config))
        initialise(self)

    @property
    def channels(self) -> int:
        """Context channels: those of the lifted map that are no depth bins."""
        return int(self.lift_net[-1].out_channels) - self.bins

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return int(self.downsample[-3].out_channels)

    def _frustum_size(self, config: AnyLift) -> tuple[int, int]:
        """Height and width of the picture on which the frustum lies."""
        return self.image_size

    def _bev_layers(self, config: AnyLift) -> list[nn.Module]:
        """The convolutions on the pooled map."""
        assert isinstance(config, LiftConfig)
        return [
            *convolution(config.channels * self.grid_shape[2], config.channels),
            *convolution(config.channels, config.channels, stride=config.downsample),
            *convolution(config.channels, config.channels),
        ]

    def _make_lift(self, config: AnyLift) -> None:
        """Make the layers that :meth:`lift` uses."""
        assert isinstance(config, LiftConfig)
        assert config.depth_net is not None
        first, second, third = config.depth_net
        self.depth_net = nn.Sequential(
            *convolution(1, first, 1, bias=True),
            *convolution(first, second, 5, stride=4, bias=True),
            *convolution(second, third, 5, stride=2, bias=True),
        )
        self.lift_net = nn.Sequential(
            *convolution(third + config.neck, config.neck, bias=True),
            *convolution(config.neck, config.neck, bias=True),
            nn.Conv2d(config.neck, self.bins + config.channels, 1),
        )

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """A BEV map [N, channels, x, y].

        Args:
            features: [M, neck, h, w] of the batch's pictures.
            batch: its points paint the depth pictures, its calibration places the frustum.
        """
        cell = self.cells(batch)
        depth, context = self.lift(features, self.painted(batch))
        return self.downsample(self.pool(depth, context, cell))

    def pool(self, depth: Tensor, context: Tensor, cell: Tensor) -> Tensor:
        """The lifted features in their BEV cells, [N, Z·F, x, y]; arguments as of :func:`splat`."""
        return splat(depth, context, cell, self.grid_shape)

    def pooled_channels(self) -> Tensor:
        """The channels of the pooled map that each context channel feeds, [F, Z] int64."""
        # The lowest slab's channels come first.
        return torch.arange(self.channels)[:, None] + torch.arange(self.grid_shape[2])[None] * self.channels

    def cells(self, batch: Batch) -> Tensor:
        """BEV cell (x, y, z) of every frustum point, [N, C, D, h, w, 3] int64; see :func:`grid_cell`."""
        # Half precision would move points by whole cells.
        with torch.autocast(batch.camera_to_lidar.device.type, enabled=False):
            points = place_frustum(
                self.frustum,
                batch.camera_intrinsics,
                batch.camera_to_lidar,
                batch.image_augmentation,
                batch.lidar_augmentation,
            )
            return grid_cell(points, self.grid_first_centre, self.grid_step)

    def painted(self, batch: Batch) -> Tensor | None:
        """Depth pictures of the batch's points, [M, 1, H, W] metres; None where no depth is read."""
        with torch.autocast(batch.camera_to_lidar.device.type, enabled=False):
            lidar_to_pixel = batch.camera_intrinsics @ torch.linalg.inv(batch.camera_to_lidar)[..., :3, :]
            painted = paint_depth(
                batch.points, lidar_to_pixel, batch.image_augmentation, batch.lidar_augmentation, self.image_size
            )
        return painted.flatten(0, 1)[:, None]

    def lift(self, features: Tensor, depths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Probabilities of the depth bins [M, D, h, w], and the context to splat [M, F, h, w].

        Args:
            features: [M, neck, h, w].
            depths: [M, 1, H, W] depth pictures, a result of :meth:`painted`.
        """
        if depths is not None:
            features = torch.cat([self.depth_net(depths), features], dim=1)
        # The published order of the channels: logits of the depth bins first, context second.
        logits, context = self.lift_net(features).split([self.bins, self.channels], dim=1)
        return logits.softmax(1), context


def make_frustum(image_size: tuple[int, int], depth_bins: tuple[float, float, float], stride: int = STRIDE) -> Tensor:
    """Pixel (u, v) of the augmented picture and depth (m) of every frustum point: [D, h, w, 3].

    >>> make_frustum((16, 32), (1.0, 3.0, 0.5)).shape
    torch.Size([4, 2, 4, 3])
    """
    height, width = image_size
    # Feature cells are spread from the first to the last pixel, not centred in their pixels; released weights
    # have learned this.
    u = torch.linspace(0, width - 1, width // stride)
    v = torch.linspace(0, height - 1, height // stride)
    depth = torch.arange(*depth_bins)
    depth, v, u = torch.meshgrid(depth, v, u, indexing="ij")
    return torch.stack([u, v, depth], dim=-1)


def place_frustum(
    frustum: Tensor,
    camera_intrinsics: Tensor,
    camera_to_lidar: Tensor,
    image_augmentation: Tensor,
    lidar_augmentation: Tensor,
) -> Tensor:
    """Frustum points in the augmented lidar frame: [N, C, D, h, w, 3] metres.

    Args:
        frustum: [D, h, w, 3], a result of :func:`make_frustum`.
        camera_intrinsics: [N, C, 3, 3], camera frame to original homogeneous pixel.
        camera_to_lidar: [N, C, 4, 4].
        image_augmentation: [N, C, 3, 3], original pixel to pixel of the augmented picture.
        lidar_augmentation: [N, 4, 4], lidar frame to augmented lidar frame.
    """
    depth = frustum[..., 2:]
    pixels = torch.cat([frustum[..., :2], torch.ones_like(depth)], dim=-1)
    # (u, v, 1)·depth is a linear function of the point: all steps but the translation are one 3×3 matrix.
    pixel_to_ray = torch.linalg.inv(image_augmentation @ camera_intrinsics)
    rotation = lidar_augmentation[:, None] @ camera_to_lidar
    matrix = rotation[..., :3, :3] @ pixel_to_ray
    points = (pixels * depth).view(-1, 3) @ matrix.transpose(-2, -1) + rotation[..., None, :3, 3]
    return points.view(*matrix.shape[:2], *frustum.shape)


def grid_cell(points: Tensor, first_centre: Tensor, step: Tensor) -> Tensor:
    """Cell (x, y, z) of each point, int64, truncated toward zero and not limited to the grid; see the module's text.

    Args:
        points: [..., 3] metres.
        first_centre: centre of the first cell (m).
        step: size of a cell (m).
    """
    return ((points - (first_centre - step / 2)) / step).long()


def paint_depth(
    points: Sequence[Tensor],
    lidar_to_pixel: Tensor,
    image_augmentation: Tensor,
    lidar_augmentation: Tensor,
    image_size: tuple[int, int],
) -> Tensor:
    """Depth pictures of the LiDAR points.

    Args:
        points: [P, 3 or more] of each sample, in its augmented lidar frame (m).
        lidar_to_pixel: [N, C, 3, 4], un-augmented lidar frame to original homogeneous pixel (times depth).
        image_augmentation: [N, C, 3, 3], original pixel to pixel of the picture.
        lidar_augmentation: [N, 4, 4], lidar frame to augmented lidar frame.
        image_size: H, W.

    Returns:
        [N, C, H, W]: depth in the camera frame (m) at the pixel of each point, 0 at pixels without a point. Where
        several points share a pixel, the last one counts, on every device.
    """
    height, width = image_size
    cameras = lidar_to_pixel.shape[1]
    pictures = []
    for sample, cloud in enumerate(points):
        matrix = lidar_to_pixel[sample] @ torch.linalg.inv(lidar_augmentation[sample])
        ray = cloud[:, :3] @ matrix[:, :, :3].transpose(-2, -1) + matrix[:, None, :, 3]
        depth = ray[..., 2]
        # Points behind the camera are dropped below; clamped depths only keep them from a division by zero.
        pixel = (ray / depth.clamp(min=1e-5)[..., None]) @ image_augmentation[sample].transpose(-2, -1)
        u, v = pixel[..., 0], pixel[..., 1]
        camera, point = torch.nonzero((depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height), as_tuple=True)
        target = (camera * height + v[camera, point].long()) * width + u[camera, point].long()
        # An assignment with repeated indices keeps an unspecified value: find the last writer of each pixel first.
        writer = point.new_full((cameras * height * width,), -1).scatter_reduce(0, target, point, "amax")
        seen = writer >= 0
        picture = depth.new_zeros(writer.shape)
        rows = torch.nonzero(seen)[:, 0]
        picture[rows] = depth[rows // (height * width), writer[rows]]
        pictures.append(picture.view(cameras, height, width))
    return torch.stack(pictures)


def splat(depth: Tensor, context: Tensor, cell: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Sum over all frustum points of (probability of the depth) × (features of the picture's cell), by BEV cell.

    Args:
        depth: [M, D, h, w], probabilities.
        context: [M, F, h, w].
        cell: [N, C, D, h, w, 3] int64, BEV cell (x, y, z); points outside of the grid do not count.
        grid: cells along x, y, z.

    Returns:
        [N, z·F, x, y]; the channels of the lowest slab come first.
    """
    samples, _, bins, height, width, _ = cell.shape
    size_x, size_y, size_z = grid
    x, y, z = cell.flatten(1, -2).unbind(-1)
    inside = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y) & (z >= 0) & (z < size_z)
    sample = torch.arange(samples, device=cell.device)[:, None]
    target = ((sample * size_z + z) * size_x + x) * size_y + y
    kept = torch.nonzero(inside.flatten())[:, 0]
    # Frustum points are numbered (picture, bin, pixel); their features lie at (picture, pixel).
    pixels = height * width
    picture_cell = kept // (bins * pixels) * pixels + kept % pixels
    # Only points inside of the grid are multiplied out: with all of them, most of the model's memory would be here.
    features = context.permute(0, 2, 3, 1).reshape(-1, context.shape[1])[picture_cell]
    features = features * depth.flatten()[kept, None]
    pooled = features.new_zeros(samples * size_z * size_x * size_y, context.shape[1])
    pooled = pooled.index_add(0, target.flatten()[kept], features)
    return pooled.view(samples, size_z, size_x, size_y, -1).permute(0, 1, 4, 2, 3).flatten(1, 2)
