"""The camera's neck of BEVFusion-pku: a feature pyramid whose levels an adaptive module brings to one size.

Notation: M pictures; maps are [M, channel, height, width]. Sources: Lin et al., *Feature Pyramid Networks*, CVPR 2017;
Liang et al., *BEVFusion*, NeurIPS 2022. As in the published code, the levels are concatenated, where the paper's text
adds them up, and no layer has a normalisation or an activation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from altermoma_ray.models.configurations.height_lift import HeightLiftConfig

FINEST = 4
"""Stride of the finest level."""


class AdaptiveFpn(nn.Module):
    """A backbone's maps of strides 4, 8, ... to [M, neck, h, w] with the feature cells of the view transform.

    >>> neck = AdaptiveFpn(HeightLiftConfig(neck=4, levels=3, original_size=(32, 64)), (8, 16), image_size=(32, 64))
    >>> neck([torch.zeros(1, 8, 8, 16), torch.zeros(1, 16, 4, 8)]).shape
    torch.Size([1, 4, 4, 8])

    Args:
        config: widths and number of levels.
        stage_channels: channels of the backbone's maps.
        image_size: height and width of a picture, multiples of four times the feature cells.
    """

    def __init__(self, config: HeightLiftConfig, stage_channels: Sequence[int], image_size: tuple[int, int]) -> None:
        super().__init__()
        self.size = config.feature_size
        """Rows and columns of the result."""
        self.pool = tuple(side // (FINEST * cells) for side, cells in zip(image_size, self.size, strict=True))
        """Rows and columns of the finest level a cell of the result."""
        self.levels = config.levels
        self.pyramid = FeaturePyramidNetwork(list(stage_channels), config.neck)
        self.adapters = nn.ModuleList(nn.Conv2d(config.neck, config.neck, 1) for _ in range(config.levels))
        self.reduce = nn.Conv2d(config.levels * config.neck, config.neck, 3, padding=1)
        for convolution in (*self.adapters, self.reduce):
            # All layers are linear: Xavier's initialisation keeps the variance of activations.
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to [M, neck, h, w]."""
        levels = list(self.pyramid(OrderedDict(enumerate(maps))).values())
        while len(levels) < self.levels:
            # A pool of one cell with stride 2: every other cell of the coarsest level.
            levels.append(functional.max_pool2d(levels[-1], 1, stride=2))
        finest, *coarser = levels
        # The published adaptive pooling; known numbers of cells make one plain operation of it, for exported files too.
        resized = [functional.avg_pool2d(finest, self.pool)]
        resized += [functional.interpolate(one, self.size, mode="bilinear", align_corners=True) for one in coarser]
        adapted = [adapter(one) for adapter, one in zip(self.adapters, resized, strict=True)]
        return self.reduce(torch.cat(adapted, dim=1))
