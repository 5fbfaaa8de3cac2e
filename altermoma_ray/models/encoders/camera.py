"""The camera encoder: backbone, LSS feature pyramid, view transform.

Notation: M pictures (samples × cameras), H × W their size; maps are [M, channel, height, width]. Source: Liu et al.,
*BEVFusion*, ICRA 2023. A backbone gives maps of strides 8, 16, ..., finest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.camera import AnyCamera, ResNetConfig
from altermoma_ray.models.encoders.resnet import ResNetBackbone
from altermoma_ray.models.encoders.swin import SwinBackbone
from altermoma_ray.models.layers.blocks import convolution, initialise
from altermoma_ray.models.views.depth_lss import DepthLss
from altermoma_ray.models.views.lss import PlainLss


class LssFpn(nn.Module):
    """Top-down pyramid: each map is joined with the upsampled coarser one. The finest result is returned.

    Example: two maps of a camera with strides 8 and 16::

        features = LssFpn(config)([map_of_stride_8, map_of_stride_16])  # [M, neck, H/8, W/8]
    """

    def __init__(self, config: AnyCamera) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList()
        self.output_convs = nn.ModuleList()
        *finer, coarsest = config.stage_channels
        for level, channels in enumerate(finer):
            coarser = coarsest if level == len(finer) - 1 else config.neck
            self.lateral_convs.append(nn.Sequential(*convolution(channels + coarser, config.neck, 1)))
            self.output_convs.append(nn.Sequential(*convolution(config.neck, config.neck)))
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to [M, neck, H/8, W/8]."""
        *finer, result = maps
        levels = list(zip(finer, self.lateral_convs, self.output_convs, strict=True))
        for features, lateral, output in reversed(levels):
            upsampled = F.interpolate(result, size=features.shape[-2:], mode="bilinear", align_corners=False)
            result = output(lateral(torch.cat([features, upsampled], dim=1)))
        return result


class CameraEncoder(nn.Module):
    """Pictures and the LiDAR depth seen in them to a BEV map [N, channels, x, y]."""

    def __init__(self, config: AnyCamera, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = ResNetBackbone(config) if isinstance(config, ResNetConfig) else SwinBackbone(config)
        self.neck = LssFpn(config)
        self.view_transform = (PlainLss if config.depth_net is None else DepthLss)(config, image_size)

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.view_transform.out_channels

    def forward(self, batch: Batch) -> Tensor:
        """A BEV map [N, channels, x, y] of the batch's pictures."""
        # The backbone sees pictures one by one; which camera took them matters to the view transform only.
        return self.view_transform(self.neck(self.backbone(batch.images.flatten(0, 1))), batch)
