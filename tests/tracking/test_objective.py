"""Objectives: directions, figures that are no numbers, and the champion of a Pareto search."""

from __future__ import annotations

import math
import random

import pytest

from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.metrics import Metric
from altermoma_ray.tracking.objective import Objective, knee
from altermoma_ray.tracking.result import TrialResult

MAP, PARETO = Objective.parse("map", FIGURES), Objective.parse("map,sparsity", FIGURES)
LOSS = Objective((Metric("loss", "loss", "minimize"),))


def test_one_objective_takes_the_best_value_and_the_lowest_number_of_equals():
    values = {3: [0.5], 1: [0.7], 2: [0.7], 0: [0.1]}
    assert MAP.best(values) == 1
    assert LOSS.best(values) == 0


@pytest.mark.parametrize("undefined", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_finite_number_never_wins(undefined):
    for objective in (MAP, LOSS):
        assert objective.best({0: [undefined], 1: [0.2], 2: [undefined]}) == 1
        assert objective.best({0: [undefined], 1: [undefined]}) is None
        assert objective.metrics[0].gain(undefined) == -math.inf
    assert PARETO.best({0: [undefined, 0.9], 1: [0.1, undefined], 2: [0.1, 0.1]}) == 2


def test_what_a_trial_lacks_is_no_number_either():
    result = TrialResult(number=0, status="failed", reason="no", started=0, ended=1)
    assert all(map(math.isnan, PARETO.values(result)))
    assert PARETO.best({}) is None


def test_the_champion_of_a_pareto_search_is_the_knee_not_an_end():
    values = {0: [0.92, 0.50], 1: [0.90, 0.85], 2: [0.60, 0.90], 3: [0.05, 0.97], 4: [0.89, 0.84]}
    assert PARETO.best(values) == 1
    assert PARETO.best({**values, 5: [math.nan, 0.99]}) == 1


def test_the_knee_against_its_definition():
    rng = random.Random(0)
    for size in (2, 3):
        for _ in range(200):
            points = {n: tuple(rng.randrange(6) / 5 for _ in range(size)) for n in range(rng.randrange(1, 12))}
            front = {
                n: p
                for n, p in points.items()
                if not any(q != p and all(b >= a for a, b in zip(p, q, strict=True)) for q in points.values())
            }
            low = [min(axis) for axis in zip(*front.values(), strict=True)]
            high = [max(axis) for axis in zip(*front.values(), strict=True)]

            def distance(point, low=low, high=high):
                return sum(((h - x) / (h - a)) ** 2 for x, a, h in zip(point, low, high, strict=True) if h > a)

            found = knee(points)
            assert found in front
            assert distance(front[found]) == pytest.approx(min(map(distance, front.values())))
            equals = [n for n, p in front.items() if p == front[found]]
            assert found == min(equals)


def test_the_knee_of_one_and_of_two():
    assert knee({7: (0.5, 0.5)}) == 7
    assert knee({0: (0.2, 0.9), 1: (0.8, 0.5)}) == 1  # the two ends are equally far: the first objective decides
    assert knee({5: (0.5, 0.5), 2: (0.5, 0.5), 4: (0.4, 0.4)}) == 2


def test_every_metric_of_a_task_can_be_an_objective_with_its_own_direction():
    assert Objective.parse("nds, ap/bus", FIGURES).names == ("nds", "ap/bus")
    assert Objective.parse("tp/mATE,sparsity", FIGURES).directions == ["minimize", "maximize"]
    assert Objective.parse(None, FIGURES) == MAP
    assert FIGURES.find("ap/car") == Metric("ap/car", "AP of car", is_column=False)
    assert FIGURES.find("speed") is None


def test_a_metric_can_be_asked_for_without_a_modality():
    objective = Objective.parse("map,tp/mATE/without-camera", FIGURES)
    assert objective.names == ("map", "tp/mATE/without-camera")
    assert objective.directions == ["maximize", "minimize"]
    assert objective.rule.startswith("the knee of the Pareto front of mAP and mATE without camera")
    for wrong in ("map/without-radar", "map/without-", "sparsity/without-camera", "speed/without-camera"):
        assert FIGURES.find(wrong) is None


def test_how_the_champion_is_chosen_is_said():
    assert MAP.rule == "the highest mAP"
    assert LOSS.rule == "the lowest loss"
    assert PARETO.rule.startswith(
        "the knee of the Pareto front of mAP and sparsity: its trial nearest to the best value"
    )
    assert PARETO.text([math.nan, 0.9]) == "mAP nan, sparsity 0.900"


def test_costs_are_sought_downwards_and_make_each_trial_draw_its_sparsity():
    objective = Objective.parse("map,latency", FIGURES)
    assert objective.searches_sparsity
    assert not MAP.searches_sparsity
    assert objective.directions == ["maximize", "minimize"]
    result = TrialResult(
        number=0, status="finished", metrics={"map": 0.5, "latency": 61.2}, sparsity={"total": 0.4}, started=0, ended=1
    )
    assert objective.values(result) == [0.5, 61.2]
    assert objective.best({0: [0.5, 61.2], 1: [0.4, 80.0], 2: [0.5, 60.0]}) == 2
    assert Objective.parse("macs", FIGURES).text([1.5e9]) == "MACs 1,500,000,000"
    # A cost is the same with a sensor masked: there is no such metric.
    assert FIGURES.find("latency/without-camera") is None
