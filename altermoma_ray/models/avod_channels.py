"""Which channels of AVOD-FPN can be removed, and everything that goes with each.

All layers are traced at once, on small views of one size. Pooling stands for the choice of crops, which tracing cannot
follow: both leave channels in their order. Features of both views meet in a mean, so that a channel of one goes
together with the same channel of the other, and with the inputs of the second stage that read its crops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.pruning.channels import Coupling, trace

if TYPE_CHECKING:
    from altermoma_ray.models.avod import Avod

SIDE = 16
"""Cells along each side of the views that are traced."""


class _Layers(nn.Module):
    """The layers of a model, under their own names; views of one size to all outputs."""

    def __init__(self, model: Avod) -> None:
        super().__init__()
        self.encoders, self.proposals, self.boxes = model.encoders, model.proposals, model.boxes
        self.crops = model.config.proposals.crop, model.config.boxes.crop

    def forward(self, *views: Tensor) -> list[Tensor]:
        pairs = [encoder(view) for encoder, view in zip(self.encoders.values(), views, strict=True)]
        features, summary = (torch.stack(maps).mean(dim=0) for maps in zip(*pairs, strict=True))
        small, large = self.crops
        boxes = self.boxes(functional.adaptive_avg_pool2d(features, large))
        return [*self.proposals(functional.adaptive_avg_pool2d(summary, small)), *boxes.values()]


def avod_couplings(model: Avod) -> list[Coupling]:
    """The couplings of a model, in the order of tracing.

    >>> from altermoma_ray.models.configurations.avod_fpn import avod_configuration
    >>> couplings = avod_couplings(avod_configuration("avod-fpn-toy").build())
    >>> next(one.channels for one in couplings if one.name == "boxes.hidden.0")
    192
    """
    inputs = (3, model.config.inputs.bev_channels)
    views = [torch.zeros(1, channels, SIDE, SIDE) for channels in inputs]
    # A summary has one channel, which has to stay.
    return [one for one in trace(_Layers(model), lambda layers: layers(*views)) if one.channels > 1]
