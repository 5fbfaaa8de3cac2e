"""Every criterion of ours keeps the contract."""

from __future__ import annotations

import pytest

from altermoma_ray.pruning.criteria import CRITERIA, IMP, Magnitude, Random, SynFlow
from altermoma_ray.testing import CriterionContract
from altermoma_ray.testing.criterion import overall, reads_data, with_a_faint_layer
from altermoma_ray.testing.problem import small_problem

SHORTER = {"imp": IMP(rounds=2, steps=6), "synflow": SynFlow(rounds=20)}
TESTED = {**CRITERIA, **SHORTER}


class TestOurs(CriterionContract):
    @pytest.fixture(autouse=True, params=TESTED.values(), ids=TESTED)
    def _each(self, request):
        self.criterion = request.param
        self.is_random = isinstance(request.param, Random)


def test_only_magnitude_and_chance_read_no_data():
    assert {name for name, criterion in TESTED.items() if not reads_data(criterion)} == {"magnitude", "random"}


def test_magnitude_names_the_layer_that_it_would_have_emptied():
    problem = with_a_faint_layer(small_problem())
    assert "fusion.2.weight" in Magnitude().masks(problem, overall(problem, 0.97)).floored
