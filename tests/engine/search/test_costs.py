"""Plans with costs: which tables they need, and which columns their trials have."""

from __future__ import annotations

import pytest

from altermoma_ray.engine.search.costs import unpruned_costs, with_costs
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.search.resuming import resume_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.errors import UserError

SPACE = SearchSpace(granularities=("channel",), criteria=("snip",), published_first=False)


def planned(workload, checkpoint, **fields):
    request = {"workload": workload, "checkpoint": str(checkpoint), "space": SPACE, "sparsity": 0.5, "trials": 2}
    return plan_search(SearchRequest(**request, **fields))


def names(plan):
    return [metric.name for metric in plan.figures.metrics]


def test_a_plan_without_costs_is_as_it_was(workload, checkpoint):
    plan = planned(workload, checkpoint)
    assert with_costs(plan) is plan
    assert unpruned_costs(plan) == {}
    assert not {"latency", "macs"} & set(names(plan))
    assert not plan.trial_job().budget


def test_a_limit_of_macs_counts_once_and_times_nothing(workload, checkpoint):
    plan = with_costs(planned(workload, checkpoint, max_macs=500_000_000))
    assert "/costs/macs/" in plan.costs
    assert "macs" in names(plan)
    assert "latency" not in names(plan)
    unpruned = unpruned_costs(plan)["macs"]
    assert unpruned > 500_000_000
    assert with_costs(plan).costs == plan.costs
    plan.save()
    again = resume_search(plan.storage, plan.name, {"max_macs": 500_000_000})
    assert (again.costs, again.budget) == (plan.costs, plan.budget)
    with pytest.raises(UserError, match="was started with another --max-macs 500000000; to --resume it leave"):
        resume_search(plan.storage, plan.name, {"max_macs": 400_000_000})
    with pytest.raises(UserError, match=r"the narrowest model has [\d,]+ MACs, but at most 9;"):
        with_costs(again.model_copy(update={"max_macs": 9}))


def test_what_decides_the_sparsity(workload, checkpoint):
    """A limit alone, unless a sparsity was typed or each trial draws its own."""
    assert not planned(workload, checkpoint, max_macs=1000).budget.is_beside_sparsity
    assert planned(workload, checkpoint, max_macs=1000, is_least_sparsity=True).budget.is_beside_sparsity
    drawn = planned(workload, checkpoint, max_macs=1000, objective="map,latency")
    assert drawn.budget.is_beside_sparsity
    assert drawn.is_timed
