"""A dense twin of the sparse encoder: the same layers under the same names, on ordinary tensors.

Torch-Pruning cannot follow spconv's sparse tensors. The couplings of channels depend on the connections of layers, not
on the occupied voxels: a dense encoder of the same connections shows the same couplings. The twin is run once, on a
grid of a few voxels; its weights are never used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from altermoma_ray.models.encoders.lidar import ResidualBlock, SparseEncoder, StridedConvolution, SubmanifoldConvolution


class DenseTwin(nn.Module):
    """Voxels of a dense grid [1, K, x, y, z] to the BEV map [1, channels · Z, x', y'] of a sparse encoder."""

    def __init__(self, encoder: SparseEncoder) -> None:
        super().__init__()
        # Named like the encoder's own parts: couplings are found by the names of parameters.
        self.input_conv = _twin(encoder.input_conv)
        self.stages = nn.ModuleList(_twin(stage) for stage in encoder.stages)
        self.output_conv = _twin(encoder.output_conv)

    def forward(self, voxels: Tensor) -> Tensor:
        """The layers in the sparse encoder's order; heights are folded into channels as c·Z + z."""
        voxels = self.input_conv(voxels)
        for stage in self.stages:
            voxels = stage(voxels)
        return self.output_conv(voxels).permute(0, 1, 4, 2, 3).flatten(1, 2)


class _DenseBlock(nn.Module):
    """The twin of :class:`ResidualBlock`."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.norm1 = _twin(block.conv1), _twin(block.norm1)
        self.conv2, self.norm2 = _twin(block.conv2), _twin(block.norm2)

    def forward(self, voxels: Tensor) -> Tensor:
        # The sum ties the channels of a stage together: the reason why the twin keeps the block's residual.
        hidden = torch.relu(self.norm1(self.conv1(voxels)))
        return torch.relu(self.norm2(self.conv2(hidden)) + voxels)


def _twin(module: nn.Module) -> nn.Module:
    if isinstance(module, ResidualBlock):
        return _DenseBlock(module)
    if isinstance(module, SubmanifoldConvolution | StridedConvolution):
        return nn.Conv3d(
            module.in_channels,
            module.out_channels,
            tuple(module.kernel_size),
            tuple(module.stride),
            # A submanifold convolution keeps the grid, whatever padding it was given.
            1 if isinstance(module, SubmanifoldConvolution) else tuple(module.padding),
            bias=False,
        )
    if isinstance(module, nn.BatchNorm1d):
        return nn.BatchNorm3d(module.num_features)
    if isinstance(module, nn.ReLU):
        return nn.ReLU()
    return nn.Sequential(*(_twin(part) for part in module.children()))
