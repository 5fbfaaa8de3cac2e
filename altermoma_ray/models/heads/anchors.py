"""The anchor head: boxes as changes of fixed boxes, the anchors, of each cell (Lang et al., *PointPillars*, CVPR 2019).

Parameter names, figures and shapes are those of BEVFusion-pku's published code.

Notation: ``N`` samples, ``X × Y`` BEV cells (first axis x, second y), ``K`` classes, ``A`` anchors of a cell: the
headings of the first size, then of the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from altermoma_ray.models.configurations.anchors import AnchorHeadConfig

CODE, DIRECTIONS = 9, 2
"""Numbers of a box's code, and directions between which the head chooses."""
PRIOR = 0.01
"""Probability of each class at the beginning: nearly all anchors are background (Lin et al., ICCV 2017)."""


class AnchorHead(nn.Module):
    """Class logits, a box and its direction for every anchor of a BEV map.

    ``forward`` maps features [N, in_channels, X, Y] to a dict. The channels of a cell's anchors follow each other:

    ==============  ==============  ================================================================================
    ``class``       [N, A·K, X, Y]  class logits
    ``box``         [N, A·9, X, Y]  the box's code, see :mod:`altermoma_ray.tasks.detection.anchors`
    ``direction``   [N, A·2, X, Y]  logits of the two directions in which the box may point
    ==============  ==============  ================================================================================

    >>> import torch
    >>> config = AnchorHeadConfig(num_classes=3)
    >>> outputs = AnchorHead(config, in_channels=8)(torch.zeros(1, 8, 6, 5))
    >>> {name: tuple(output.shape) for name, output in outputs.items()}
    {'class': (1, 42, 6, 5), 'box': (1, 126, 6, 5), 'direction': (1, 28, 6, 5)}
    """

    def __init__(self, config: AnchorHeadConfig, in_channels: int) -> None:
        super().__init__()
        self.config = config
        anchors = config.anchors_per_cell
        self.conv_cls = nn.Conv2d(in_channels, anchors * config.num_classes, 1)
        self.conv_reg = nn.Conv2d(in_channels, anchors * CODE, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, anchors * DIRECTIONS, 1)
        for layer in (self.conv_cls, self.conv_reg, self.conv_dir_cls):
            # Small: a box starts as its anchor.
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Features [N, in_channels, X, Y] to the outputs listed in the class's text."""
        return {
            "class": self.conv_cls(features),
            "box": self.conv_reg(features),
            "direction": self.conv_dir_cls(features),
        }

    def distillable(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs a pruned copy can learn from: probabilities of each anchor and class, by ``class``.

        Boxes and directions are left out: those of nearly all anchors describe nothing.
        """
        # Not logits: nearly all anchors are empty, and their logits far below 0 would outweigh the objects.
        return {"class": outputs["class"].sigmoid()}
