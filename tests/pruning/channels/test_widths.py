"""Widths without cutting: the same shapes as a model that is really cut."""

from __future__ import annotations

import torch
from torch import nn

from altermoma_ray.pruning.channels import cut, kept_entries, kept_shapes, kept_shares, trace


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6, 2)
    )


def test_shapes_are_those_of_the_cut_model():
    model = chain().eval()
    couplings = trace(model, lambda one: one(torch.zeros(1, 3, 3, 3)))
    assert len(couplings) == 2
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for share in (0.3, 0.7, 1.0):
        kept = kept_shares(couplings, {coupling.name: share for coupling in couplings})
        small = cut(model, kept_entries(shapes, couplings, kept))
        assert kept_shapes(shapes, couplings, kept) == {name: one.shape for name, one in small.state_dict().items()}


def test_a_share_keeps_a_channel_and_the_multiple_of_its_coupling():
    model = chain().eval()
    first, *_ = trace(model, lambda one: one(torch.zeros(1, 3, 3, 3)))
    assert int(kept_shares([first], {first.name: 0.01})[first.name].sum()) == 1
