"""Every granularity of ours keeps the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Target
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.granularity import GRANULARITIES, Channel, NofM, Weight, replay
from altermoma_ray.pruning.targets import OutOfReach
from altermoma_ray.testing import GranularityContract
from altermoma_ray.testing.criterion import with_channels
from altermoma_ray.testing.granularity import scores
from altermoma_ray.testing.problem import small_problem


class TestWeight(GranularityContract):
    granularity = Weight()


class TestChannel(GranularityContract):
    granularity = Channel(Bounds(least=0.01))
    # The small network has few channels of many weights each, and a layer normalisation whose width stays.
    tolerance = 0.13
    highest = 0.7


class TestNofM(GranularityContract):
    granularity = NofM()
    # Only the two layers with 384 and 108 of the 695 weights have inputs in fours; either takes the pattern as a whole.
    tolerance = 0.28
    highest = 0.35

    def test_ratios_are_met_in_every_group(self):
        groups = small_problem().groups
        target = Target(groups=groups, sparsity=0.3, ratios={"camera": 0.39, "lidar": 0.0, "fusion": 0.5})
        masks = self._bound.select(scores(), target)
        assert masks.sparsity_by_group(groups) == pytest.approx({"camera": 192 / 492, "lidar": 0, "fusion": 54 / 126})
        with pytest.raises(OutOfReach, match=r"in the group lidar can go up to a sparsity of 0\.000, but 0\.100"):
            self._bound.select(scores(), replace(target, ratios={"camera": 0.0, "lidar": 0.1, "fusion": 0.0}))


def test_every_granularity_of_ours_is_tested():
    assert set(GRANULARITIES) == {"weight", "channel", "n_of_m"}


def test_single_weights_are_those_of_the_target():
    target = Target(groups=small_problem().groups, sparsity=0.7)
    masks = Weight().select(scores(), target)
    assert all(torch.equal(mask, masks[name]) for name, mask in target.masks(scores()).items())
    assert masks.floored == target.masks(scores()).floored
    assert Weight().plan(masks) == {}


def test_masks_of_parts_of_channels_are_refused():
    problem = with_channels(small_problem())
    masks = Target(groups=problem.groups, sparsity=0.5).masks(scores())
    with pytest.raises(UserError, match=r"the masks prune '.*' in parts of channels: .* take granularity 'weight'"):
        problem.granularity.checked(masks)
    assert Weight().checked(masks) is masks


def test_a_plan_goes_to_the_granularity_that_made_it():
    model = torch.nn.Linear(2, 2)
    assert replay(model, {}) is model
    with pytest.raises(UserError, match="no granularity 'later' is known, only weight, channel, n_of_m"):
        replay(model, {"granularity": "later"})
    with pytest.raises(UserError, match="no granularity 'None' is known, only weight, channel"):
        replay(model, {"channels": [1]})
    with pytest.raises(UserError, match="Weight changes no architecture, but got a plan with granularity, channels"):
        replay(model, {"granularity": "weight", "channels": [1]})
