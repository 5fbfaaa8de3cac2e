"""Every granularity of ours keeps the contract."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Target
from altermoma_ray.pruning.granularity import GRANULARITIES, Weight, replay
from altermoma_ray.testing import GranularityContract
from altermoma_ray.testing.granularity import scores
from altermoma_ray.testing.problem import small_problem


class TestOurs(GranularityContract):
    @pytest.fixture(autouse=True, params=GRANULARITIES.values(), ids=GRANULARITIES)
    def _each(self, request):
        self.granularity = request.param


def test_single_weights_are_those_of_the_target():
    target = Target(groups=small_problem().groups, sparsity=0.7)
    masks = Weight().select(scores(), target)
    assert all(torch.equal(mask, masks[name]) for name, mask in target.masks(scores()).items())
    assert masks.floored == target.masks(scores()).floored
    assert Weight().plan(masks) == {}


def test_a_plan_goes_to_the_granularity_that_made_it():
    model = torch.nn.Linear(2, 2)
    assert replay(model, {}) is model
    with pytest.raises(UserError, match="no granularity 'later' is known, only weight"):
        replay(model, {"granularity": "later"})
    with pytest.raises(UserError, match="no granularity 'None' is known, only weight"):
        replay(model, {"channels": [1]})
    with pytest.raises(UserError, match="Weight changes no architecture, but got a plan with granularity, channels"):
        replay(model, {"granularity": "weight", "channels": [1]})
