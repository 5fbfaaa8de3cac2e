"""Histograms of scores: every weight is counted once, but those of frozen layers."""

from __future__ import annotations

import math

import torch

from altermoma_ray.engine.trials.histograms import score_histograms
from altermoma_ray.pruning import Masks


def test_frozen_layers_are_not_counted():
    scores = {"free": torch.tensor([-1.0, 0.0, 3.0]), "frozen": torch.full((4,), torch.inf)}
    masks = Masks({"free": torch.tensor([False, True, True]), "frozen": torch.ones(4, dtype=torch.bool)})
    found = score_histograms(scores, masks, {"both": ["free", "frozen"], "none": ["frozen"]}, bins=5)
    assert list(found) == ["both"]
    assert (sum(found["both"].kept), sum(found["both"].pruned)) == (2, 1)
    assert all(math.isfinite(edge) for edge in found["both"].edges)
