"""The camera encoder: backbone, feature pyramid, view transform.

Notation: M pictures (samples × cameras), H × W their size; maps are [M, channel, height, width]. Sources: Liu et al.,
*BEVFusion*, ICRA 2023; Liang et al., *BEVFusion*, NeurIPS 2022, of the view transform that folds heights and its neck.
A backbone gives maps of strides 8, 16, ... or 4, 8, ..., finest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.camera import (
    AnyCamera,
    CoarseResNetCameraConfig,
    HeightSwinCameraConfig,
    ResNetCameraConfig,
    ResNetConfig,
    SwinCameraConfig,
)
from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.encoders.adaptive_fpn import AdaptiveFpn
from altermoma_ray.models.encoders.dual_swin import DualSwinBackbone
from altermoma_ray.models.encoders.picture_fpn import PictureFpn
from altermoma_ray.models.encoders.resnet import ResNetBackbone
from altermoma_ray.models.encoders.swin import SwinBackbone
from altermoma_ray.models.layers.blocks import convolution, initialise
from altermoma_ray.models.views.coarse_lss import CoarseLss
from altermoma_ray.models.views.depth_lss import DepthLss
from altermoma_ray.models.views.height_lss import HeightLss
from altermoma_ray.models.views.lss import PlainLss


class LssFpn(nn.Module):
    """Top-down pyramid: each map is joined with the upsampled coarser one. The finest result is returned.

    Example: two maps of a camera with strides 8 and 16::

        features = LssFpn(config)([map_of_stride_8, map_of_stride_16])  # [M, neck, H/8, W/8]
    """

    def __init__(self, config: SwinCameraConfig | ResNetCameraConfig) -> None:
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
        self.backbone = _backbone(config)
        if isinstance(config, HeightLiftConfig):
            self.neck = AdaptiveFpn(config, config.stage_channels, image_size)
            self.view_transform = HeightLss(config, image_size)
        elif isinstance(config, CoarseResNetCameraConfig):
            self.neck = PictureFpn(config.stage_channels, config.levels, config.feature_stride)
            self.view_transform = CoarseLss(config, image_size)
        else:
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


def _backbone(config: AnyCamera) -> nn.Module:
    if isinstance(config, ResNetConfig):
        return ResNetBackbone(config)
    if isinstance(config, HeightSwinCameraConfig) and config.dual:
        return DualSwinBackbone(config)
    return SwinBackbone(config)
