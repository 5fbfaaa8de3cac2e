"""Hard voxels: the first points of the first voxels (Zhou and Tuzel, *VoxelNet*, CVPR 2018), averaged or one by one.

Notation: V occupied voxels, P slots for points in each, K values of a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Voxels:
    """V occupied voxels of a batch, sample after sample, each sample's in the order of their first points."""

    features: Tensor
    """[V, K], mean of the voxel's points."""
    coordinates: Tensor
    """[V, 4] int32: sample, x, y, z."""


def voxelise(
    points: Sequence[Tensor],
    *,
    lower: Sequence[float],
    size: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
) -> Voxels:
    """Average the points of each voxel.

    Example: two points of one sample share a voxel of 1 m::

        >>> points = torch.tensor([[0.2, 0.2, 0.2], [0.6, 0.4, 0.8]])
        >>> voxels = voxelise([points], lower=[0, 0, 0], size=[1, 1, 1], grid=[4, 4, 4], max_points=10, max_voxels=9)
        >>> voxels.features
        tensor([[0.4000, 0.3000, 0.5000]])
        >>> voxels.coordinates
        tensor([[0, 0, 0, 0]], dtype=torch.int32)

    Args:
        points: [P, K] of each sample; the first three columns are x, y, z (m). P may be 0.
        lower: lower corner of the grid (m).
        size: size of a voxel (m).
        grid: voxels along x, y, z; points outside of the grid do not count.
        max_points: of a voxel, only so many points count, in their order.
        max_voxels: of a sample, only so many voxels count, in the order of their first points.
    """
    groups = [_grouped(cloud, lower, size, grid, max_points, max_voxels) for cloud in points]
    means = []
    for group in groups:
        total = group.points.new_zeros(len(group.voxels), group.points.shape[1])
        total = total.index_add(0, group.row, group.points)
        means.append(total / torch.bincount(group.row, minlength=len(group.voxels))[:, None])
    return Voxels(features=torch.cat(means), coordinates=_with_sample([group.voxels for group in groups]))


@dataclass(frozen=True, kw_only=True)
class VoxelPoints:
    """V occupied voxels of a batch with their points, in the order of :class:`Voxels`."""

    points: Tensor
    """[V, P, K], zeros in empty slots; the filled slots of a voxel come first."""
    count: Tensor
    """[V] int64, filled slots."""
    coordinates: Tensor
    """[V, 4] int32: sample, x, y, z."""


def voxel_points(
    points: Sequence[Tensor],
    *,
    lower: Sequence[float],
    size: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
) -> VoxelPoints:
    """Collect the points of each voxel; the arguments are those of :func:`voxelise`.

    Example: two points of one sample share a voxel of 1 m::

        >>> points = torch.tensor([[0.2, 0.2, 0.2], [0.6, 0.4, 0.8]])
        >>> found = voxel_points([points], lower=[0, 0, 0], size=[1, 1, 1], grid=[4, 4, 4], max_points=3, max_voxels=9)
        >>> found.points[0, :, 0], found.count
        (tensor([0.2000, 0.6000, 0.0000]), tensor([2]))
    """
    groups = [_grouped(cloud, lower, size, grid, max_points, max_voxels) for cloud in points]
    slots = []
    for group in groups:
        empty = group.points.new_zeros(len(group.voxels), max_points, group.points.shape[1])
        slots.append(empty.index_put((group.row, group.slot), group.points))
    return VoxelPoints(
        points=torch.cat(slots),
        count=torch.cat([torch.bincount(group.row, minlength=len(group.voxels)) for group in groups]),
        coordinates=_with_sample([group.voxels for group in groups]),
    )


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The Q counting points of a sample, voxel after voxel."""

    points: Tensor
    """[Q, K]."""
    row: Tensor
    """[Q] int64, number of a point's voxel."""
    slot: Tensor
    """[Q] int64, a point's place among the points of its voxel."""
    voxels: Tensor
    """[V, 3] int64, x, y, z of the voxels."""


def _grouped(
    points: Tensor, lower: Sequence[float], size: Sequence[float], grid: Sequence[int], max_points: int, max_voxels: int
) -> _Group:
    voxel = ((points[:, :3] - points.new_tensor(lower)) / points.new_tensor(size)).floor().long()
    inside = ((voxel >= 0) & (voxel < voxel.new_tensor(grid))).all(1)
    points, voxel = points[inside], voxel[inside]
    # Without a loop over voxels: number the voxels, sort the points by number, and find where each number begins.
    key = (voxel[:, 0] * grid[1] + voxel[:, 1]) * grid[2] + voxel[:, 2]
    # Stable: points of one voxel become neighbours and stay in their order.
    key, order = torch.sort(key, stable=True)
    begins = torch.ones_like(key, dtype=torch.bool)
    begins[1:] = key[1:] != key[:-1]
    start = torch.nonzero(begins)[:, 0]
    group = begins.cumsum(0) - 1
    # `group`: the voxel of each sorted point; `within`: the point's place among the points of its voxel.
    within = torch.arange(len(key), device=key.device) - start[group]

    # Voxels in the order of their first points, as the published code meets them; `rank` is -1 for the surplus ones.
    first = order[start]
    chosen = first.argsort()[:max_voxels]
    rank = torch.full_like(first, -1)
    rank[chosen] = torch.arange(len(chosen), device=key.device)
    counts = (within < max_points) & (rank[group] >= 0)
    return _Group(
        points=points[order[counts]], row=rank[group[counts]], slot=within[counts], voxels=voxel[first[chosen]]
    )


def _with_sample(voxels: Sequence[Tensor]) -> Tensor:
    """Voxels [V, 3] of each sample as [V of all, 4] int32, the sample's number first."""
    parts = [torch.cat([voxel.new_full((len(voxel), 1), sample), voxel], dim=1) for sample, voxel in enumerate(voxels)]
    return torch.cat(parts).int()
