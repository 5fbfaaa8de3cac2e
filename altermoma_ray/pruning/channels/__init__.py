"""Whole channels: which parameters belong to one channel, and how channels are cut out of a model.

A channel is more than a row of one weight. Whatever a convolution's output channel runs into (a normalisation, a sum
of two branches, the inputs of the next layers) has entries which go with the channel. A :class:`Coupling` lists the
entries of channels with all their owners; :func:`trace` finds couplings with Torch-Pruning's dependency graph;
:func:`choose` picks channels by score; :func:`cut` makes a smaller model.
"""

from __future__ import annotations

from altermoma_ray.pruning.channels.choosing import Bounds, choose
from altermoma_ray.pruning.channels.couplings import Coupling, Slice, keep_masks, kept_entries
from altermoma_ray.pruning.channels.cutting import cut, cut_entries
from altermoma_ray.pruning.channels.tracing import trace
from altermoma_ray.pruning.channels.widths import kept_shapes, kept_shares

__all__ = [
    "Bounds",
    "Coupling",
    "Slice",
    "choose",
    "cut",
    "cut_entries",
    "keep_masks",
    "kept_entries",
    "kept_shapes",
    "kept_shares",
    "trace",
]
