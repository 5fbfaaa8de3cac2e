from __future__ import annotations

import random

import pytest

from altermoma_ray.engine.proposals import Objective, Proposals
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.errors import UserError
from altermoma_ray.tracking.result import Evaluation, TrialResult

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}


def proposals(trials=20, lag=4, objective="map", **space):
    return Proposals(
        SearchSpace(**space), SIZES, Objective.parse(objective), sparsity=0.9, trials=trials, lag=lag, seed=7
    )


def run(source, order_seed, known=()):
    """Run all trials, ending in a random order; returns the tasks by number."""
    rng = random.Random(order_seed)
    tasks, running = {}, []
    known = dict(known)
    while True:
        while (task := source.next()) is not None:
            tasks[task.number] = task
            if task.number in known:
                source.complete(known[task.number])
            else:
                running.append(task)
        if not running:
            return tasks
        task = running.pop(rng.randrange(len(running)))
        source.complete(outcome(task))


def outcome(task):
    """A made-up but fixed result of a setting."""
    value = 1 / (1 + task.setting.beta) + task.setting.learning_rate
    early = Evaluation(step=10, metrics={"map": value / 2})
    stopped = value / 2 < task.thresholds.get(0, 0)
    history = [early] if stopped else [early, Evaluation(step=30, metrics={"map": value})]
    return TrialResult(
        number=task.number,
        status="stopped" if stopped else "finished",
        metrics=history[-1].metrics,
        history=history,
        sparsity={"total": 0.9},
        params_left=1000,
        started=0,
        ended=1,
    )


def test_proposals_do_not_depend_on_the_order_in_which_trials_end():
    runs = [run(proposals(), order) for order in range(4)]
    assert all(other == runs[0] for other in runs[1:])
    assert sorted(runs[0]) == list(range(20))


def test_a_resumed_search_proposes_what_an_undisturbed_one_does():
    whole = run(proposals(), 0)
    known = {number: outcome(whole[number]) for number in (0, 1, 2, 5, 6)}
    source = proposals()
    for result in known.values():
        source.complete(result)
    assert run(source, 1, known) == whole


def test_a_trial_waits_for_those_it_may_learn_from():
    source = proposals(lag=4)
    tasks = [source.next() for _ in range(4)]
    assert all(task is not None for task in tasks)
    assert source.next() is None
    source.complete(outcome(tasks[1]))
    assert source.next() is None
    source.complete(outcome(tasks[0]))
    assert source.next().number == 4


def test_trial_zero_is_the_paper_s_configuration():
    setting = proposals().next().setting
    assert (setting.scope, setting.beta, setting.sparsity) == ("global", 1.0, 0.9)
    outside = proposals(scopes=("group",), beta=(0.0, 0.5))
    assert outside.next().setting == setting
    assert outside.next().setting.scope == "group"


def test_thresholds_keep_the_better_half_of_the_trials_before():
    source = proposals(lag=2)
    tasks = [source.next(), source.next()]
    assert [task.thresholds for task in tasks] == [{}, {}]
    source.complete(outcome(tasks[0]))
    third = source.next()
    assert third.thresholds == {}  # one value is no crowd
    source.complete(outcome(tasks[1]))
    fourth = source.next()
    values = [outcome(task).history[0].metrics["map"] for task in tasks]
    assert fourth.thresholds == {0: pytest.approx(sum(values) / 2)}


def test_a_pareto_search_draws_the_sparsity_and_stops_nothing():
    tasks = run(proposals(objective="map,sparsity"), 0)
    assert all(task.thresholds == {} for task in tasks.values())
    assert len({round(task.setting.sparsity, 6) for task in tasks.values()}) > 10


def test_failed_trials_teach_nothing_and_stop_nothing():
    source = proposals(trials=6, lag=1)
    for _ in range(6):
        task = source.next()
        source.complete(TrialResult(number=task.number, status="failed", reason="no", started=0, ended=1))
    assert source.exhausted


@pytest.mark.parametrize("text", ["speed", "map,map", "", "map,"])
def test_unknown_objectives_are_refused(text):
    with pytest.raises(UserError, match="must be distinct metrics out of map"):
        Objective.parse(text)
