"""The feature extractor of one view of AVOD-FPN: an encoder like VGG-16, and a decoder like a feature pyramid network.

Ku et al., *Joint 3D Proposal Generation and Object Detection from View Aggregation*, IROS 2018, section III-B. Pictures
and bird's-eye views have extractors of one shape and of weights of their own. Notation: V views of H × W cells.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.models.configurations.avod import POOLINGS, PyramidConfig
from altermoma_ray.models.layers.blocks import SECOND_EPS, NormSettings, convolution


class VggPyramid(nn.Module):
    """A view [V, C, H, W] to its map [V, channels[0], H, W], of the view's own resolution.

    Rows that the poolings cannot divide are made up by zeros on top, and cut off again.

    >>> config = PyramidConfig(channels=(4, 8, 8, 16), layers=(1, 1, 1, 1))
    >>> VggPyramid(config, in_channels=6)(torch.zeros(1, 6, 28, 32)).shape
    torch.Size([1, 4, 28, 32])

    Args:
        config: channels and layers.
        in_channels: channels of the view.
    """

    def __init__(self, config: PyramidConfig, in_channels: int) -> None:
        super().__init__()
        # Published: ε 0.001, the usual one of TensorFlow's layers.
        norm = NormSettings(eps=SECOND_EPS, momentum=config.norm_momentum)
        self.stages = nn.ModuleList()
        widths = (in_channels, *config.channels[:-1])
        for inputs, outputs, layers in zip(widths, config.channels, config.layers, strict=True):
            pairs = pairwise((inputs, *[outputs] * layers))
            self.stages.append(nn.Sequential(*[part for pair in pairs for part in convolution(*pair, norm=norm)]))
        self.upsamplers, self.fusers = nn.ModuleList(), nn.ModuleList()
        width = config.channels[-1]
        # From coarse to fine: enlarge, join with the encoder's map of that size, and reduce to the channels of the next
        # finer stage.
        for stage in reversed(range(len(config.channels) - 1)):
            joined, outputs = config.channels[stage], config.channels[max(0, stage - 1)]
            self.upsamplers.append(_doubled(width, joined, norm))
            self.fusers.append(nn.Sequential(*convolution(2 * joined, outputs, norm=norm)))
            width = outputs
        self.out_channels = width

    def forward(self, view: Tensor) -> Tensor:
        """A view [V, C, H, W] to [V, out_channels, H, W]; W divides by 8."""
        added = -view.shape[2] % 2**POOLINGS
        features = functional.pad(view, (0, 0, added, 0))
        maps: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            features = stage(functional.max_pool2d(features, 2) if number else features)
            maps.append(features)
        maps.pop()
        for upsampler, fuser in zip(self.upsamplers, self.fusers, strict=True):
            features = fuser(torch.cat((maps.pop(), upsampler(features)), dim=1))
        return features[:, :, added:]


class ViewEncoder(nn.Module):
    """The extractor of a view, and the 1 × 1 convolution to the one channel that proposals are made of.

    ``forward`` maps a view [V, C, H, W] to its features [V, out_channels, H, W], and to their summary [V, 1, H, W].

    Args:
        config: of the extractor.
        in_channels: channels of the view.
    """

    def __init__(self, config: PyramidConfig, in_channels: int) -> None:
        super().__init__()
        self.extractor = VggPyramid(config, in_channels)
        self.out_channels = self.extractor.out_channels
        norm = NormSettings(eps=SECOND_EPS, momentum=config.norm_momentum)
        self.bottleneck = nn.Sequential(*convolution(self.out_channels, 1, 1, norm=norm))

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """A view to its features and to their summary."""
        features = self.extractor(view)
        return features, self.bottleneck(features)


def _doubled(inputs: int, outputs: int, norm: NormSettings) -> nn.Sequential:
    """A transposed convolution to twice the size, centred on the cells that it enlarges."""
    enlarge = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(enlarge, nn.BatchNorm2d(outputs, **norm), nn.ReLU(inplace=True))
