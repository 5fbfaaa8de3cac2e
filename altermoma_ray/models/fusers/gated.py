"""The dynamic fusion of BEVFusion-pku: concatenation, convolution, and a gate for each channel.

Liang et al., *BEVFusion: A Simple and Robust LiDAR-Camera Fusion Framework*, NeurIPS 2022. The gate is that of Hu et
al., *Squeeze-and-Excitation Networks*, CVPR 2018, with one layer instead of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.models.configurations.fusion import GatedFuserConfig
from altermoma_ray.models.layers.blocks import SECOND_EPS, NormSettings, convolution, initialise


class ChannelGate(nn.Module):
    """Multiplies each channel by a weight between 0 and 1, computed from the means of all channels over the map.

    >>> gate = ChannelGate(3)
    >>> gate(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, bev: Tensor) -> Tensor:
        """[N, C, x, y] to the same."""
        return bev * self.weights(bev)


class GatedFuser(nn.Sequential):
    """Stack the sensors' BEV maps, convolve them, and gate the channels: [N, A, x, y], [N, B, x, y] to [N, C, x, y].

    Example: maps of 256 and 512 channels, of which the first one is on a coarser grid::

        fuser = GatedFuser(GatedFuserConfig(), [256, 512])
        fuser([torch.zeros(1, 256, 90, 90), torch.zeros(1, 512, 180, 180)])  # [1, 512, 180, 180]
    """

    def __init__(self, config: GatedFuserConfig, in_channels: Sequence[int]) -> None:
        norm = NormSettings(eps=SECOND_EPS, momentum=config.norm_momentum)
        super().__init__(*convolution(sum(in_channels), config.channels, norm=norm), ChannelGate(config.channels))
        self.out_channels = config.channels
        # The order of the maps is the order of the kernel's input channels, which released weights have fixed.
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps given in the order of ``in_channels``; all are resized to the last one's grid."""
        size = maps[-1].shape[-2:]
        resized = [
            bev if bev.shape[-2:] == size else functional.interpolate(bev, size, mode="bilinear", align_corners=True)
            for bev in maps
        ]
        return super().forward(torch.cat(resized, dim=1))
