"""Plain "lift, splat": image features to a bird's-eye-view (BEV) map, with depths that the pictures alone tell.

Philion and Fidler, *Lift, Splat, Shoot*, ECCV 2020. Notation as in :mod:`altermoma_ray.models.views.depth_lss`.
"""

from __future__ import annotations

from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.views.depth_lss import AnyLift, DepthLss


class PlainLss(DepthLss):
    """Image features [M, neck, h, w] and a batch's calibration to a BEV map [N, channels, x, y].

    Geometry and splatting are :class:`DepthLss`'s. One 1×1 convolution gives depths and features; no LiDAR is read.
    """

    def _make_lift(self, config: AnyLift) -> None:
        self.lift_net = nn.Sequential(nn.Conv2d(config.neck, self.bins + config.channels, 1))

    def painted(self, batch: Batch) -> Tensor | None:
        """None: the pictures alone tell depths."""
        return None
