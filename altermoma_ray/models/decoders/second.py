"""The BEV decoder: the backbone and FPN of SECOND (Yan et al., *Sparsely Embedded Convolutional Detection*, 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from altermoma_ray.models.configurations.fusion import DecoderConfig
from altermoma_ray.models.layers.blocks import SECOND_EPS, NormSettings, convolution, initialise, resize


class SecondBackbone(nn.Module):
    """Blocks of 3×3 convolutions; each block works on the output of the block before."""

    def __init__(self, config: DecoderConfig, in_channels: int) -> None:
        super().__init__()
        norm = NormSettings(eps=SECOND_EPS, momentum=config.norm_momentum)
        self.blocks = nn.ModuleList()
        for channels, layers, stride in zip(config.channels, config.layers, config.strides, strict=True):
            block = convolution(in_channels, channels, stride=stride, norm=norm)
            # `layers` counts the convolutions after the strided one, as the published configurations do.
            for _ in range(layers):
                block += convolution(channels, channels, norm=norm)
            self.blocks.append(nn.Sequential(*block))
            in_channels = channels

    def forward(self, bev: Tensor) -> list[Tensor]:
        """[N, C, x, y] to one map for each block, finest first."""
        maps = []
        for block in self.blocks:
            bev = block(bev)
            maps.append(bev)
        return maps


class SecondFpn(nn.Module):
    """Brings the blocks' maps to one size and stacks their channels."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.deblocks = nn.ModuleList()
        for inputs, outputs, stride in zip(config.channels, config.neck, config.block_strides, strict=True):
            resized = resize(inputs, outputs, stride, config.output_stride)
            norm = nn.BatchNorm2d(outputs, eps=SECOND_EPS, momentum=config.norm_momentum)
            self.deblocks.append(nn.Sequential(resized, norm, nn.ReLU(inplace=True)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The blocks' maps to one map [N, sum of ``neck``, x, y]."""
        return torch.cat([deblock(bev) for deblock, bev in zip(self.deblocks, maps, strict=True)], dim=1)


class BevDecoder(nn.Module):
    """SECOND and its FPN: the fused map [N, C, x, y] to the head's map [N, sum of ``neck``, x, y].

    The head's map is coarser by ``config.output_stride``, where that is not 1.
    """

    def __init__(self, config: DecoderConfig, in_channels: int) -> None:
        super().__init__()
        self.backbone = SecondBackbone(config, in_channels)
        self.neck = SecondFpn(config)
        initialise(self)

    @property
    def out_channels(self) -> int:
        """Channels of the head's map."""
        # Of the layers, not of the configuration: pruning may have removed channels.
        return sum(int(norm.num_features) for _, norm, _ in self.neck.deblocks)

    def forward(self, bev: Tensor) -> Tensor:
        """The fused map [N, C, x, y] to the head's map [N, sum of ``neck``, x, y]."""
        return self.neck(self.backbone(bev))
