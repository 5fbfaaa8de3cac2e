"""SECOND's feature pyramid on pictures: the camera's neck of the camera-radar variant of BEVFusion.

Yan et al., *SECOND*, 2018; Liu et al., *BEVFusion*, ICRA 2023 (figures). Notation: M pictures of H × W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from altermoma_ray.models.layers.blocks import SECOND_EPS, initialise, resize


class PictureFpn(nn.Module):
    """A ResNet's maps of strides 4, 8, ..., finest first, to one map [M, sum of the levels, H/stride, W/stride].

    >>> neck = PictureFpn((8, 16, 32), levels=(4, 4, 4), stride=8)
    >>> neck([torch.zeros(1, 8, 16, 32), torch.zeros(1, 16, 8, 16), torch.zeros(1, 32, 4, 8)]).shape
    torch.Size([1, 12, 8, 16])

    Args:
        stage_channels: channels of the maps.
        levels: channels that each map contributes.
        stride: pixels a cell of the result.
    """

    def __init__(self, stage_channels: Sequence[int], levels: Sequence[int], stride: int) -> None:
        super().__init__()
        self.deblocks = nn.ModuleList()
        for stage, (inputs, outputs) in enumerate(zip(stage_channels, levels, strict=True)):
            norm = nn.BatchNorm2d(outputs, eps=SECOND_EPS, momentum=0.01)
            resized = _resized(inputs, outputs, 4 << stage, stride)
            self.deblocks.append(nn.Sequential(resized, norm, nn.ReLU(inplace=True)))
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to [M, sum of the levels, H/stride, W/stride]."""
        return torch.cat([deblock(features) for deblock, features in zip(self.deblocks, maps, strict=True)], dim=1)


def _resized(inputs: int, outputs: int, before: int, after: int) -> nn.Module:
    # As published: a map that keeps its size passes a transposed convolution too, whose kernel is [in, out, 1, 1].
    if before == after:
        return nn.ConvTranspose2d(inputs, outputs, 1, bias=False)
    return resize(inputs, outputs, before, after)
