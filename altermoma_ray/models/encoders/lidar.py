"""The LiDAR encoder: hard voxels, a sparse 3D encoder on spconv and, in some models, a 2D backbone of the branch's own.

Notation: V occupied voxels; sparse coordinates are (sample, x, y, z). Sources: Yan et al., *SECOND*, 2018 (sparse
encoder); Liu et al., *BEVFusion*, ICRA 2023 (figures). spconv's implicit GEMM runs on GPUs only, its native
algorithm everywhere. Every layer picks its algorithm by the device of its input; a model may thus be moved at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.encoders.points import PointEncoder
from altermoma_ray.models.layers.blocks import SECOND_EPS
from altermoma_ray.models.layers.sparse import ConvAlgo, SparseConvolution, spconv
from altermoma_ray.models.layers.voxelise import voxelise

# PyTorch warns in every process about a function which only PyTorch itself calls, whenever a sparse tensor is made.
logging.getLogger("torch.fx._symbolic_trace").addFilter(lambda record: "is_fx_tracing" not in record.getMessage())


class _AnyDevice(SparseConvolution):
    """Picks the algorithm by device, and can be differentiated in evaluation mode too."""

    def forward(self, input: spconv.SparseConvTensor) -> spconv.SparseConvTensor:
        self.algo = ConvAlgo.MaskImplicitGemm if input.features.is_cuda else ConvAlgo.Native
        # spconv prepares the backward pass in training mode only; gradients in evaluation mode are needed to score
        # weights with frozen normalisation.
        return self._conv_forward(torch.is_grad_enabled(), input, self.weight, self.bias)


class SubmanifoldConvolution(_AnyDevice, spconv.SubMConv3d):
    """3×3×3 convolution whose outputs are the occupied voxels of its input."""

    def __init__(self, inputs: int, outputs: int, key: str) -> None:
        # Layers with the same key share the list of neighbouring voxels, which is costly to find.
        spconv.SubMConv3d.__init__(self, inputs, outputs, 3, bias=False, indice_key=key)


class StridedConvolution(_AnyDevice, spconv.SparseConv3d):
    """Convolution whose outputs are all voxels within reach of its kernel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        spconv.SparseConv3d.__init__(
            self, inputs, outputs, list(kernel), list(stride), padding=list(padding), bias=False
        )


class VoxelNorm(nn.BatchNorm1d):
    """Batch normalisation over voxels; where a batch has fewer than two, the running statistics are used."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, eps=SECOND_EPS, momentum=momentum)

    def forward(self, input: Tensor) -> Tensor:
        """[V, channels] to the same."""
        # In training, PyTorch refuses the variance of a single value; a nearly empty scan may give one voxel or none.
        if len(input) >= 2:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ResidualBlock(spconv.SparseModule):
    """Two submanifold convolutions and a skip connection."""

    def __init__(self, channels: int, key: str, momentum: float) -> None:
        super().__init__()
        self.conv1 = SubmanifoldConvolution(channels, channels, key)
        self.norm1 = VoxelNorm(channels, momentum)
        self.conv2 = SubmanifoldConvolution(channels, channels, key)
        self.norm2 = VoxelNorm(channels, momentum)

    def forward(self, voxels: spconv.SparseConvTensor) -> spconv.SparseConvTensor:
        """Keeps the occupied voxels and the channels."""
        hidden = self.conv1(voxels)
        hidden = self.conv2(hidden.replace_feature(F.relu(self.norm1(hidden.features), inplace=True)))
        return hidden.replace_feature(F.relu(self.norm2(hidden.features) + voxels.features, inplace=True))


class SparseEncoder(nn.Module):
    """Voxels to a BEV map [N, channels · Z, x, y]; Z heights are folded into the channels as c·Z + z."""

    def __init__(self, config: LidarConfig, grid: tuple[int, int, int], in_channels: int = 5) -> None:
        super().__init__()
        self.spatial_shape = [grid[0], grid[1], grid[2] + 1]
        """x, y, z; the published encoder has one empty layer on top."""
        momentum = config.norm_momentum
        self.input_conv = _activated(SubmanifoldConvolution(in_channels, config.input_channels, "stage0"), momentum)
        self.stages = nn.ModuleList()
        before = config.input_channels
        last = len(config.stages) - 1
        for stage, channels in enumerate(config.stages):
            # A stage lists the channels of its layers; the last one is strided, except in the last stage.
            blocks = len(channels) if stage == last else len(channels) - 1
            layers: list[nn.Module] = [ResidualBlock(before, f"stage{stage}", momentum) for _ in range(blocks)]
            if stage < last:
                padding = (1, 1, config.height_padding(stage))
                layers.append(
                    _activated(StridedConvolution(before, channels[-1], (3, 3, 3), (2, 2, 2), padding), momentum)
                )
                before = channels[-1]
            self.stages.append(spconv.SparseSequential(*layers))
        output = StridedConvolution(before, config.channels, (1, 1, 3), (1, 1, 2), (0, 0, 0))
        self.output_conv = _activated(output, momentum)
        self.heights = config.output_height(grid[2])
        """Z, the layers of voxels that are folded into channels."""
        self.bev_size = (grid[0] // config.stride, grid[1] // config.stride)

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return int(self.output_conv[0].out_channels) * self.heights

    def forward(self, features: Tensor, coordinates: Tensor, samples: int) -> Tensor:
        """Voxels to a BEV map [N, channels · Z, x, y].

        Args:
            features: [V, K] of the voxels.
            coordinates: [V, 4] int32: sample, x, y, z.
            samples: N.
        """
        if len(features) == 0:  # spconv refuses to work on nothing
            return features.new_zeros(samples, self.out_channels, *self.bev_size)
        voxels = spconv.SparseConvTensor(features, coordinates, self.spatial_shape, samples)
        voxels = self.input_conv(voxels)
        for stage in self.stages:
            voxels = stage(voxels)
        return fold_height(self.output_conv(voxels))


def fold_height(voxels: spconv.SparseConvTensor) -> Tensor:
    """Sparse voxels of C channels as a BEV map [N, C·Z, x, y], zero in empty voxels; channels are c·Z + z."""
    size_x, size_y, size_z = voxels.spatial_shape
    sample, x, y, z = voxels.indices.long().unbind(1)
    row = ((sample * size_x + x) * size_y + y) * size_z + z
    # No two voxels share a row: copying them in any order gives the same map.
    dense = voxels.features.new_zeros(voxels.batch_size * size_x * size_y * size_z, voxels.features.shape[1])
    dense = dense.index_copy(0, row, voxels.features).view(voxels.batch_size, size_x, size_y, size_z, -1)
    return dense.permute(0, 4, 3, 1, 2).flatten(1, 2)


class LidarEncoder(PointEncoder):
    """Points to a BEV map [N, channels, x, y].

    Example: a grid of 1440 × 1440 × 40 voxels, whose lower corner is at -54 m, -54 m, -5 m::

        encoder = LidarEncoder(config.lidar, lower=(-54.0, -54.0, -5.0), grid=(1440, 1440, 40))
        bev = encoder(batch)
    """

    def __init__(self, config: LidarConfig, lower: Sequence[float], grid: tuple[int, int, int]) -> None:
        super().__init__(config, lower, grid)
        self.backbone = SparseEncoder(config, grid)
        self.add_decoder()

    def encoded(self, batch: Batch) -> Tensor:
        """The sparse encoder's BEV map of the batch's points, before the branch's own decoder."""
        voxels = self.gathered(voxelise, batch)
        return self.backbone(voxels.features * self.point_scale, voxels.coordinates, len(batch))


def _activated(convolution: SparseConvolution, momentum: float) -> spconv.SparseSequential:
    return spconv.SparseSequential(convolution, VoxelNorm(convolution.out_channels, momentum), nn.ReLU(inplace=True))
