"""The contract suite of granularities: exact or near sparsities, nested masks, finalised models of equal outputs."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from altermoma_ray.pruning import MaskHolder, Masks, Target, solve_ratios
from altermoma_ray.pruning.granularity import Granularity
from altermoma_ray.testing.problem import TwoBranch, sizes_of, small_batches, small_model, small_problem
from altermoma_ray.testing.values import copied, differences


class GranularityContract:
    """Tests of a :class:`altermoma_ray.pruning.granularity.Granularity`, on a small network with two branches.

    Subclass it in a test module, with the granularity as an attribute:

    >>> from altermoma_ray.pruning.granularity import Weight
    >>> class TestMyGranularity(GranularityContract):
    ...     granularity = Weight()
    >>> TestMyGranularity().test_a_finalised_model_computes_the_same()

    Attributes:
        granularity: the tested granularity.
        tolerance: how far the number of weights left may be from the target's, as a fraction of all weights; 0 where
            single weights can be counted off.
        highest: no higher sparsity is asked for; units that must stay keep their weights.
    """

    granularity: Granularity
    tolerance: ClassVar[float] = 0.0
    highest: ClassVar[float] = 0.95

    @pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.83, 0.95])
    def test_a_total_sparsity_is_met(self, sparsity: float) -> None:
        sparsity = min(sparsity, self.highest)
        masks = self._select(sparsity)
        problem = small_problem()
        total = sum(sizes_of(problem).values())
        assert set(masks) == set(problem.names)
        for name, mask in masks.items():
            assert mask.dtype == torch.bool
            assert mask.shape == problem.model.get_parameter(name).shape
            assert masks.kept([name]) >= 1, name
        # Units of many weights cannot meet a count exactly; the criteria's suite has no tolerance.
        assert abs(masks.kept() - (total - round(sparsity * total))) <= self.tolerance * total

    def test_ratios_are_met_in_every_group(self) -> None:
        problem = small_problem()
        sizes = sizes_of(problem)
        sparsity = 0.5 * self.highest
        ratios = solve_ratios(sizes, sparsity, {"camera": 0.0, "lidar": 0.7, "fusion": 1.2})
        masks = self._bound.select(scores(), Target(groups=problem.groups, sparsity=sparsity, ratios=ratios))
        for group, size in sizes.items():
            wanted = size - round(ratios[group] * size)
            assert abs(masks.kept(problem.groups[group]) - wanted) <= self.tolerance * size

    def test_a_higher_sparsity_prunes_a_superset(self) -> None:
        """Schedules raise the sparsity while a model is trained; a weight that came back would start from zero."""
        for less, more in pairwise(self._select(min(one, self.highest)) for one in (0.3, 0.6, 0.9)):
            assert all(bool((less[name] | ~more[name]).all()) for name in less)

    def test_a_later_round_never_brings_a_unit_back(self) -> None:
        """Criteria which prune in rounds score the remaining units anew, in any order."""
        earlier = self._select(0.4 * self.highest)
        turned = {name: score.max() + score.min() - score for name, score in scores().items()}
        for share in (0.4, 0.8):
            target = Target(groups=small_problem().groups, sparsity=share * self.highest)
            later = self._bound.select(turned, target, earlier)
            assert all(bool((earlier[name] | ~later[name]).all()) for name in later)
            assert later.sparsity() >= target.sparsity - max(self.tolerance, 0.01)
            assert not differences(dict(self._bound.checked(later)), dict(later))

    def test_the_same_again_gives_the_same_and_leaves_the_scores(self) -> None:
        given = scores()
        target = Target(groups=small_problem().groups, sparsity=min(0.6, self.highest))
        first, second = (self._bound.select(given, target) for _ in range(2))
        assert not differences(dict(first), dict(second))
        assert not differences(given, scores())

    def test_the_cost_is_what_is_left(self) -> None:
        costs = [self._bound.cost(self._select(share * self.highest)) for share in (0.0, 0.1, 1.0)]
        total = sum(sizes_of(small_problem()).values())
        assert [cost.weights_total for cost in costs] == [total] * 3
        assert total == costs[0].weights_left > costs[1].weights_left > costs[2].weights_left > 0

    def test_a_plan_is_json_and_names_its_granularity(self) -> None:
        plan = self._bound.plan(self._select(min(0.6, self.highest)))
        assert json.loads(json.dumps(plan)) == plan
        # An empty plan changes no architecture; a checkpoint with one is loaded without any granularity.
        assert not plan or isinstance(plan["granularity"], str)

    def test_a_finalised_model_computes_the_same(self) -> None:
        """The model trained under masks is left unchanged."""
        model, masks = self._trained()
        batch, before = small_batches(1)[0], copied(model.state_dict())
        expected = model(*batch[:2])
        final = self._bound.finalise(model, masks)
        assert not differences(copied(model.state_dict()), before)
        assert not differences(final.eval()(*batch[:2]), expected, tolerance=1e-9)

    def test_a_replayed_plan_takes_the_weights_of_the_finalised_model(self) -> None:
        model, masks = self._trained()
        final = self._bound.finalise(model, masks)
        rebuilt = self.granularity.replay(small_model(), json.loads(json.dumps(self._bound.plan(masks))))
        rebuilt.load_state_dict(final.state_dict())
        # The load is strict: at this point, shapes and names of the two models are equal.
        batch = small_batches(1)[0]
        assert not differences(rebuilt.eval()(*batch[:2]), final.eval()(*batch[:2]))

    @property
    def _bound(self) -> Granularity:
        image, points, _ = small_batches(1)[0]
        return self.granularity.bound_to(small_model(), lambda model: model(image, points))

    def _select(self, sparsity: float) -> Masks:
        return self._bound.select(scores(), Target(groups=small_problem().groups, sparsity=sparsity))

    def _trained(self) -> tuple[TwoBranch, Masks]:
        """A model after two steps of training under masks, in evaluation mode."""
        model, masks = small_model().train(), self._select(min(0.6, self.highest))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with MaskHolder(model, self._bound.held(masks), optimizer) as holder:
            for image, points, target in small_batches(2):
                optimizer.zero_grad()
                (model(image, points) - target).square().mean().backward()
                optimizer.step()
                # Momentum moves a weight even at a gradient of zero; the masks are therefore applied again.
                holder.after_step()
        return model.eval(), masks


def scores() -> dict[str, torch.Tensor]:
    """Positive scores of all prunable weights, no two the same.

    Example:
        >>> min(float(score.min()) for score in scores().values()) >= 0.1
        True
    """
    model, names = small_model(), small_problem().names
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(model.get_parameter(name).shape, generator=generator, dtype=torch.float64) + 0.1
        for name in names
    }
