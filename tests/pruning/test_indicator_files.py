"""Indicators as tensors of a file, and the settings that they belong to."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from altermoma_ray.pruning import Indicators, Reactivation


def test_indicators_survive_safetensors():
    value = {"a.weight": torch.rand(3, 2), "b.weight": torch.rand(4)}
    reri = {"lidar": {"a.weight": torch.rand(3, 2)}, "camera": {"b.weight": torch.rand(2, 3).t()}}
    found = Indicators(contribution=value, redundancy=reri)
    again = Indicators.from_tensors(load(save(found.to_tensors())))
    torch.testing.assert_close(again.contribution, found.contribution, rtol=0, atol=0)
    torch.testing.assert_close(again.redundancy, found.redundancy, rtol=0, atol=0)


def test_foreign_tensors_are_no_indicators():
    with pytest.raises(ValueError, match=r"'encoder/weight' is not an indicator: this file was not written by"):
        Indicators.from_tensors({"encoder/weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("steps", "learning_rate", "message"),
    [
        (0, 1e-3, "steps >= 1, but got steps=0"),
        (1, 0.0, "above 0, but got learning_rate=0.0"),
        (1, float("nan"), "above 0, but got learning_rate=nan"),
    ],
)
def test_bad_reactivation_is_explained(steps, learning_rate, message):
    with pytest.raises(ValueError, match=message):
        Reactivation(steps=steps, learning_rate=learning_rate)
