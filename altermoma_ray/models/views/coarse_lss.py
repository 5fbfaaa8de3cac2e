"""Plain "lift, splat" of coarse features, straight to the fused map: no convolution follows the splat.

Philion and Fidler, *Lift, Splat, Shoot*, ECCV 2020; Liu et al., *BEVFusion*, ICRA 2023 (figures of its camera-radar
variant). Notation as in :mod:`altermoma_ray.models.views.depth_lss`, but for the size of a feature cell.
"""

from __future__ import annotations

from torch import nn

from altermoma_ray.models.configurations.coarse_lift import CoarseLiftConfig
from altermoma_ray.models.views.depth_lss import AnyLift, make_frustum
from altermoma_ray.models.views.lss import PlainLss


class CoarseLss(PlainLss):
    """Image features [M, neck, h, w] and a batch's calibration to a BEV map [N, channels · Z, x, y].

    Example: features of stride 16 of pictures of 256 × 704 pixels, [M, 512, 16, 44]::

        view = CoarseLss(CoarseLiftConfig(), (256, 704))
        view(features, batch)  # [N, 64, 128, 128]
    """

    def __init__(self, config: CoarseLiftConfig, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        self.stride = config.feature_stride, config.feature_stride
        # Registered again: the bins stay, the cells of a picture are fewer.
        self.register_buffer("frustum", make_frustum(image_size, config.depth_bins, config.feature_stride))

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.channels * int(self.grid_shape[2])

    def _bev_layers(self, config: AnyLift) -> list[nn.Module]:
        return []
