"""The CenterPoint head: objects as peaks of heat maps, described at their cells (Yin et al., CVPR 2021).

Figures, layers and parameter names are those of BEVFusion's published code. Its variant with deformable convolutions
before the heat map and before the regressions, which BEVFusion-pku uses, is left out: a deformable layer samples at
places that its own channels predict, and no rule of ours removes these channels.

Notation: ``N`` samples, ``X × Y`` BEV cells (first axis x, second y), ``K`` classes, ``T`` groups of classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.heads.transfusion import HEATMAP_BIAS
from altermoma_ray.models.layers.blocks import ConvBlock, initialise

REGRESSIONS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""Channels of each regressed quantity."""
HEATMAP = "heatmap"


class CenterPointHead(nn.Module):
    """Class logits and a box for every cell of a BEV map, and for every group of classes.

    ``forward`` maps features [N, in_channels, X, Y] to a dict. The channels of the groups follow each other:

    =================  =============  ==========================================================================
    ``dense_heatmap``  [N, K, X, Y]   class logits of every cell
    ``reg``            [N, 2T, X, Y]  x, y of the box centre from the cell's lower corner, in cells
    ``height``         [N, T, X, Y]   z of the box centre, or of ``config.height``, in metres (lidar frame)
    ``dim``            [N, 3T, X, Y]  log of length, width, height, in log metres
    ``rot``            [N, 2T, X, Y]  sine, cosine of the yaw (unnormalised)
    ``vel``            [N, 2T, X, Y]  vx, vy in m/s (lidar frame)
    =================  =============  ==========================================================================

    >>> config = CenterPointHeadConfig(
    ...     class_groups=((0,), (1, 2)), hidden=4, branch_hidden=4,
    ...     suppression=("circle", "circle"), circle_distances=(4.0, 1.0), size_factors=(1.0, 1.0, 1.0),
    ... )
    >>> outputs = CenterPointHead(config, in_channels=8)(torch.zeros(1, 8, 6, 5))
    >>> tuple(outputs["dense_heatmap"].shape), tuple(outputs["dim"].shape)
    ((1, 3, 6, 5), (1, 6, 6, 5))
    """

    def __init__(self, config: CenterPointHeadConfig, in_channels: int) -> None:
        super().__init__()
        self.config = config
        self.shared_conv = _block(in_channels, config.hidden)
        self.task_heads = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: nn.Sequential(
                        _block(config.hidden, config.branch_hidden),
                        nn.Conv2d(config.branch_hidden, outputs, 3, padding=1),
                    )
                    for name, outputs in {**REGRESSIONS, HEATMAP: len(group)}.items()
                }
            )
            for group in config.class_groups
        )
        initialise(self)
        for branches in self.task_heads:
            nn.init.constant_(branches[HEATMAP][-1].bias, HEATMAP_BIAS)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Features [N, in_channels, X, Y] to the outputs listed in the class's text."""
        shared = self.shared_conv(features)
        described = [{name: branch(shared) for name, branch in branches.items()} for branches in self.task_heads]
        outputs = {"dense_heatmap": torch.cat([one[HEATMAP] for one in described], dim=1)}
        return outputs | {name: torch.cat([one[name] for one in described], dim=1) for name in REGRESSIONS}

    def distillable(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs a pruned copy can learn from: probabilities of each class and cell, by ``dense_heatmap``.

        The boxes are left out: those of nearly all cells describe nothing.
        """
        # Not logits: nearly all cells are empty, and their logits far below 0 would outweigh the peaks.
        return {"dense_heatmap": outputs["dense_heatmap"].sigmoid()}


def _block(inputs: int, outputs: int) -> ConvBlock:
    return ConvBlock(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
