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


def test_counts_are_those_of_the_scores_themselves():
    scores = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) ** 3
    kept = scores > 0.1
    found = score_histograms({"w": scores}, Masks({"w": kept}), {"all": ["w"]}, bins=40)["all"]
    for told, chosen in ((found.kept, scores[kept]), (found.pruned, scores[~kept])):
        edges = torch.tensor(found.edges, dtype=torch.float64)
        expected = torch.histogram(chosen.double().clamp(edges[0], edges[-1]), edges).hist
        assert sum(told) == len(chosen)
        assert (torch.tensor(told) - expected).abs().max() <= 50  # scores at an edge are rounded to three digits
    assert sum(count for count, upper in zip(found.kept, found.edges[1:], strict=True) if upper < 0.099) == 0


def test_scores_of_any_size_and_equal_ones_are_counted():
    wide = torch.tensor([1e300, -1e-300, 0.0], dtype=torch.float64)
    for scores in (torch.zeros(3), torch.full((3,), -2.0), torch.tensor([1.0, 2.0, 0.5]).half(), wide):
        masks = Masks({"w": torch.tensor([True, False, False])})
        found = score_histograms({"w": scores}, masks, {"all": ["w"]})["all"]
        assert (sum(found.kept), sum(found.pruned)) == (1, 2)
        assert all(math.isfinite(edge) for edge in found.edges)


def test_scores_that_are_nearly_equal_are_told_apart():
    scores = 1 + 1e-4 * torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    found = score_histograms({"w": scores}, Masks({"w": scores > 1.00005}), {"all": ["w"]}, bins=10)["all"]
    assert [count > 0 for count in found.kept] == [False] * 5 + [True] * 5
