"""Budgets: the least pruning that keeps one, and the refusal of one that no mask keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.engine.scoring.costs import load_costs
from altermoma_ray.engine.trials.budget import Budget, along, check_reach, costs_of, least_pruned, within_budget
from altermoma_ray.errors import UserError
from altermoma_ray.models.costs import CostTable, LayerCost
from altermoma_ray.pruning import Masks, Target
from altermoma_ray.pruning.granularity import Channel, Weight
from altermoma_ray.pruning.targets import OutOfReach

GROUPS = {"all": ["0.weight", "2.weight"]}


@pytest.fixture(scope="module")
def channels():
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 2))
    return Channel().bound_to(model, lambda one: one(torch.zeros(1, 4)))


@pytest.fixture
def costs(tmp_path):
    """The first layer takes 1 ms and as much more as it has channels left of 40; the other takes 2 ms."""
    layers = {
        "0": LayerCost(tensor="0.weight", shape=(40, 4), dims=(0,), terms=(1, 40.0, 0, 0, 0, 0, 0), macs=160),
        "2": LayerCost(tensor="2.weight", shape=(2, 40), dims=(1,), terms=(2, 0, 0, 0, 0, 0, 0), macs=80),
    }
    table = CostTable(device="cpu", threads=1, rest_macs=10, measured_ms=43.0, layers=layers)
    (tmp_path / "table.json").write_text(table.model_dump_json())
    return str(tmp_path / "table.json")


def scores():
    worth = torch.arange(1.0, 41.0)
    return {"0.weight": worth[:, None].expand(40, 4).clone(), "2.weight": worth.expand(2, 40).clone()}


def kept(channels, target):
    return int(channels.select(scores(), target)["0.weight"][:, 0].sum())


def test_a_trial_prunes_no_more_than_the_budget_needs(channels, costs):
    target = Target(groups=GROUPS, sparsity=0.9)
    found = within_budget(target, Budget(max_latency_ms=23.0), costs, channels, scores())
    assert kept(channels, found) == 20
    assert costs_of(costs, channels, channels.select(scores(), found)) == {"latency": 23.0, "macs": 130.0}
    assert kept(channels, within_budget(target, Budget(max_macs=130), costs, channels, scores())) == 20


def test_a_loose_budget_prunes_nothing_or_the_least_sparsity(channels, costs):
    target, loose = Target(groups=GROUPS, sparsity=0.25), Budget(max_latency_ms=50.0)
    assert kept(channels, within_budget(target, loose, costs, channels, scores())) == 40
    least = loose.model_copy(update={"is_beside_sparsity": True})
    assert kept(channels, within_budget(target, least, costs, channels, scores())) == 30
    assert within_budget(target, Budget(), None, channels, scores()) is target


def test_a_budget_below_the_narrowest_model_is_refused_with_the_reason(channels, costs):
    with pytest.raises(OutOfReach, match=r"no mask meets the budget: the narrowest model has latency 7.0 ms, but"):
        within_budget(Target(groups=GROUPS, sparsity=0.5), Budget(max_latency_ms=6.0), costs, channels, scores())
    check_reach(load_costs(costs), channels, Budget(max_latency_ms=7.0))


def test_whole_layers_of_a_criterion_may_keep_a_budget_out_of_reach(channels, costs):
    frozen = {name: torch.full_like(score, torch.inf) for name, score in scores().items()}
    with pytest.raises(OutOfReach, match=r"out of reach of these scores and ratios: latency 43.0 ms, but at"):
        within_budget(Target(groups=GROUPS, sparsity=0.5), Budget(max_latency_ms=30.0), costs, channels, frozen)


def test_single_weights_have_no_budget(costs):
    with pytest.raises(UserError, match=r"granularity 'weight' leaves every layer as wide as it was"):
        costs_of(costs, Weight(), Masks({"a": torch.ones(2, dtype=torch.bool)}))


def test_groups_keep_their_order_at_every_sparsity():
    target = Target(groups={"a": ["a"], "b": ["b"], "c": ["c"]}, sparsity=0.5, ratios={"a": 0.8, "b": 0.4, "c": 0.0})
    for share in (0.9, 0.5, 0.1):
        ratios = along(target, share).ratios
        assert ratios["a"] > ratios["b"] > ratios["c"] == 0.0
    assert along(target, 0.5).ratios == pytest.approx(target.ratios)


def test_more_than_whole_units_allow_is_taken_for_too_much():
    """The budget is met from half of the weights on, and from a quarter on the units end."""

    def missed(target):
        if target.sparsity > 0.75:
            raise OutOfReach("the bounds")
        return None if target.sparsity >= 0.5 else "too slow"

    found = least_pruned(Target(groups=GROUPS, sparsity=0.1), Budget(max_latency_ms=1.0), missed)
    assert found.sparsity == pytest.approx(0.5, abs=1e-3)
