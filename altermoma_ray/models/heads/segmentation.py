"""Map segmentation head: the decoder's map, sampled on the map raster's grid, to a logit for each class and cell.

Liu et al., *BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation*, ICRA 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig
from altermoma_ray.models.layers.blocks import convolution, initialise


class SegmentationHead(nn.Module):
    """A BEV map [N, channel, x, y] to ``{"logits": [N, class, x, y]}`` on the raster's grid."""

    sampling: Tensor

    def __init__(self, config: SegmentationHeadConfig, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("sampling", sampling_grid(config), persistent=False)
        self.classifier = nn.Sequential(
            *convolution(in_channels, config.hidden),
            *convolution(config.hidden, config.hidden),
            nn.Conv2d(config.hidden, len(config.classes), 1),
        )
        initialise(self)

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """See the class."""
        grid = self.sampling.to(bev.dtype).expand(len(bev), -1, -1, -1)
        sampled = functional.grid_sample(bev, grid, mode="bilinear", align_corners=False)
        return {"logits": self.classifier(sampled)}

    def distillable(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs a pruned copy can learn from: probabilities of each class and cell, by ``probabilities``."""
        # Not logits: far below 0 they differ much between two maps which say the same.
        return {"probabilities": outputs["logits"].sigmoid()}


def sampling_grid(config: SegmentationHeadConfig) -> Tensor:
    """Where the centres of the raster's cells lie on the BEV map: [1, x, y, 2], −1 and 1 at the map's outer edges.

    ``grid_sample`` reads the last axis as (position along the last map axis, along the one before): here (y, x).
    """
    axes = []
    for origin, cell, size in zip(config.origin, config.cell_size, config.bev_size, strict=True):
        step = 2 * config.extent / config.cells
        centres = -config.extent + step * (torch.arange(config.cells) + 0.5)
        axes.append((centres - origin) / (cell * size) * 2 - 1)
    x, y = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([y, x], dim=-1)[None]
