"""LSS into voxels whose heights become channels: image features to a bird's-eye-view (BEV) map.

Liang et al., *BEVFusion: A Simple and Robust LiDAR-Camera Fusion Framework*, NeurIPS 2022. Notation as in
:mod:`altermoma_ray.models.views.depth_lss`; Z voxels along z. The frustum lies on the original picture: its coordinates
are pixels before resizing. Deviation: maps are [N, channel, x, y]; the published ones are [N, channel, y, x], so
kernels are transposed when weights are loaded.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.layers.blocks import convolution
from altermoma_ray.models.views.depth_lss import AnyLift, splat
from altermoma_ray.models.views.lss import PlainLss


class HeightLss(PlainLss):
    """Image features [M, neck, h, w] and a batch's calibration to a BEV map [N, channels, x, y].

    Depths and context come from one 1×1 convolution, as in :class:`PlainLss`. Four convolutions, ``downsample``, work
    on the folded map; here they keep the map's size.

    Example: the published figures, for pictures of 448 × 800 pixels with 112 × 200 feature cells::

        view = HeightLss(HeightLiftConfig(), (448, 800))
        view(features, batch)  # [N, 256, 180, 180]
    """

    to_original: Tensor

    def __init__(self, config: HeightLiftConfig, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        rows, columns = config.feature_size
        self.stride = image_size[0] // rows, image_size[1] // columns
        # The published frustum counts in original pixels, whatever the size of the model's picture.
        (height, width), (shown_height, shown_width) = config.original_size, config.shown_size
        scale = torch.tensor([[width / shown_width], [height / shown_height], [1.0]])
        self.register_buffer("to_original", scale, persistent=False)

    def cells(self, batch: Batch) -> Tensor:
        """Voxel (x, y, z) of every frustum point, [N, C, D, h, w, 3] int64."""
        # Where the picture is only resized, the product is the identity. Any other augmentation moves the frustum too.
        # Rows are scaled one by one: autocast would round a product of matrices.
        return super().cells(replace(batch, image_augmentation=self.to_original * batch.image_augmentation))

    def pool(self, depth: Tensor, context: Tensor, cell: Tensor) -> Tensor:
        """The lifted features, [N, F·Z, x, y]: channel c·Z + z holds context channel c at height z."""
        heights = self.grid_shape[2]
        # Slabs lie one after the other in the splatted map; the published fold has the heights of a channel together.
        slabs = splat(depth, context, cell, self.grid_shape).unflatten(1, (heights, -1))
        return slabs.transpose(1, 2).flatten(1, 2)

    def pooled_channels(self) -> Tensor:
        """The channels of the pooled map that each context channel feeds, [F, Z] int64."""
        return torch.arange(self.channels * self.grid_shape[2]).view(self.channels, -1)

    def _frustum_size(self, config: AnyLift) -> tuple[int, int]:
        assert isinstance(config, HeightLiftConfig)
        return config.original_size

    def _bev_layers(self, config: AnyLift) -> list[nn.Module]:
        assert isinstance(config, HeightLiftConfig)
        folded = config.channels * config.heights
        widths = (folded, folded, *config.bev)
        return [layer for inputs, outputs in pairwise(widths) for layer in convolution(inputs, outputs)]
