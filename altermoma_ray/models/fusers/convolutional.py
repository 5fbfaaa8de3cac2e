"""The convolutional fuser of BEVFusion-mit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.models.configurations.fusion import FuserConfig
from altermoma_ray.models.layers.blocks import convolution, initialise


class ConvFuser(nn.Sequential):
    """Concatenate the sensors' BEV maps and convolve them: camera [N, A, x, y], lidar [N, B, x, y] to [N, C, x, y].

    Maps of one area may have cells of different sizes. Coarser maps are brought to the finest one bilinearly.
    """

    def __init__(self, config: FuserConfig, in_channels: Sequence[int]) -> None:
        super().__init__(*convolution(sum(in_channels), config.channels))
        self.out_channels = config.channels
        # The order of the maps is the order of the kernel's input channels, which released weights have fixed.
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps given in the order of ``in_channels``."""
        finest = max((one.shape[2:] for one in maps), key=math.prod)
        # The outer edges of the maps agree, not the centres of their corner cells: hence no aligned corners.
        resized = [
            one
            if one.shape[2:] == finest
            else functional.interpolate(one, size=finest, mode="bilinear", align_corners=False)
            for one in maps
        ]
        return super().forward(torch.cat(resized, dim=1))
