"""A BEV decoder of residual blocks: the camera-radar variant of Liu et al., *BEVFusion*, ICRA 2023.

Blocks: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016. Maps are [N, channel, x, y].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from altermoma_ray.models.configurations.residual import ResidualDecoderConfig
from altermoma_ray.models.layers.blocks import NormSettings, convolution, initialise


class ResidualDecoder(nn.Module):
    """The fused map [N, C, x, y] to the head's map [N, neck, x, y].

    Stages work one on the other. The last stage's map is brought to the size of the first's and joined with it; two
    convolutions reduce the channels, and a third one works on the map in the fused map's size.

    >>> decoder = ResidualDecoder(ResidualDecoderConfig(channels=(8, 16), blocks=(1, 1), strides=(2, 2), neck=4), 6)
    >>> decoder(torch.zeros(1, 6, 16, 16)).shape
    torch.Size([1, 4, 16, 16])
    """

    def __init__(self, config: ResidualDecoderConfig, in_channels: int) -> None:
        super().__init__()
        norm = NormSettings(momentum=config.norm_momentum)
        self.stages = nn.ModuleList()
        for channels, blocks, stride in zip(config.channels, config.blocks, config.strides, strict=True):
            self.stages.append(_stage(in_channels, channels, blocks, stride, norm))
            in_channels = channels
        joined = config.channels[-1] + config.channels[0]
        self.fuse = nn.Sequential(
            *convolution(joined, config.neck, 1, norm=norm), *convolution(config.neck, config.neck, norm=norm)
        )
        self.scale = config.strides[0]
        self.upsample = nn.Sequential(*convolution(config.neck, config.neck, norm=norm))
        self.out_channels = config.neck
        initialise(self)

    def forward(self, bev: Tensor) -> Tensor:
        """The fused map [N, C, x, y] to the head's map [N, neck, x, y]."""
        maps = []
        for stage in self.stages:
            bev = stage(bev)
            maps.append(bev)
        first, last = maps[0], maps[-1]
        last = F.interpolate(last, size=first.shape[-2:], mode="bilinear", align_corners=True)
        fused = self.fuse(torch.cat([last, first], dim=1))
        return self.upsample(F.interpolate(fused, scale_factor=self.scale, mode="bilinear", align_corners=True))


def _stage(inputs: int, channels: int, blocks: int, stride: int, norm: NormSettings) -> nn.Sequential:
    """Residual blocks, of which the first one changes the map's size and channels.

    Args:
        inputs: channels of the stage's input.
        channels: of its output.
        blocks: number of blocks.
        stride: of the first block.
        norm: options of the normalisation.
    """

    def make_norm(width: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(width, **norm)

    shortcut = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride=stride, bias=False), make_norm(channels))
    first = BasicBlock(inputs, channels, stride, shortcut, norm_layer=make_norm)
    return nn.Sequential(first, *(BasicBlock(channels, channels, norm_layer=make_norm) for _ in range(blocks - 1)))
