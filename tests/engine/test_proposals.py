from __future__ import annotations

import random

import pytest

from altermoma_ray.engine.proposals import Objective, Proposals
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.trial import has_ended
from altermoma_ray.errors import UserError
from altermoma_ray.tracking.result import Evaluation, TrialResult

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}


def proposals(trials=20, lag=4, objective="map", **space):
    return Proposals(
        SearchSpace(**space), SIZES, Objective.parse(objective), sparsity=0.9, trials=trials, lag=lag, seed=7
    )


def run(source, order_seed, known=()):
    """Run all legs, ending in a random order; returns the tasks in the order of their proposal."""
    rng = random.Random(order_seed)
    tasks, running = [], []
    for result in known:
        source.complete(result)
    results = {result.number: result for result in known}
    while True:
        while (task := source.next()) is not None:
            tasks.append(task)
            if task.number not in results or not has_ended(results[task.number], task.until):
                running.append(task)
        if not running:
            assert source.exhausted
            return tasks
        task = running.pop(rng.randrange(len(running)))
        results[task.number] = outcome(task)
        source.complete(results[task.number])


def outcome(task, rungs=1):
    """A made-up but fixed result of a setting, after its run to a rung or to the end."""
    value = 1 / (1 + task.setting.beta) + 100 * task.setting.learning_rate
    stops = range(rungs + 1) if task.until is None else range(task.until + 1)
    history = [Evaluation(step=10 * (rung + 1), metrics={"map": value * (rung + 1) / (rungs + 1)}) for rung in stops]
    return TrialResult(
        number=task.number,
        status="finished" if task.until is None else "stopped",
        metrics=history[-1].metrics,
        history=history,
        sparsity={"total": 0.9},
        params_left=1000,
        started=0,
        ended=1,
    )


def numbers(tasks, until):
    return [task.number for task in tasks if task.until == until]


def test_proposals_do_not_depend_on_the_order_in_which_trials_end():
    runs = [run(proposals(), order) for order in range(4)]
    assert all(other == runs[0] for other in runs[1:])
    assert numbers(runs[0], 0) == list(range(1, 20))


@pytest.mark.parametrize("stopped_after", range(1, 27, 3))
def test_a_resumed_search_proposes_what_an_undisturbed_one_does(stopped_after):
    whole = run(proposals(), 0)
    known = {task.number: outcome(task) for task in whole[:stopped_after]}
    assert run(proposals(), 1, known.values()) == whole


def test_a_trial_waits_for_those_it_may_learn_from():
    source = proposals(lag=4)
    tasks = [source.next() for _ in range(4)]
    assert all(task is not None for task in tasks)
    assert source.next() is None
    source.complete(outcome(tasks[1]))
    assert source.next() is None
    source.complete(outcome(tasks[0]))
    assert source.next().number == 4


def test_trials_that_are_best_at_the_rung_go_on():
    tasks = run(proposals(lag=1), 0)
    first = {task.number: outcome(task).metrics["map"] for task in tasks if task.until == 0}
    promoted = numbers(tasks, None)
    assert promoted[0] == 0  # the paper's own, whatever comes
    assert 20 // 3 <= len(promoted) - 1 <= 9  # a third, and those that were among the best for a while
    assert max(first, key=first.get) in promoted
    assert len(set(promoted)) == len(promoted)
    left = [first[number] for number in first if number not in promoted]
    assert sorted(first.values())[len(first) // 2] >= sorted(left)[len(left) // 2]
    for place, task in enumerate(tasks):
        if task.until is None and task.number != 0:
            before = sorted((first[number] for number in numbers(tasks[:place], 0)), reverse=True)
            assert first[task.number] >= before[(len(before) + 1) // 3 - 1]


def test_several_rungs_are_climbed_one_after_the_other():
    source = proposals(lag=1, rungs=(0.25, 0.5), reduction=2.0)
    tasks = []
    while (task := source.next()) is not None:
        tasks.append(task)
        source.complete(outcome(task, rungs=2))
    assert source.exhausted
    assert set(numbers(tasks, 0)) > set(numbers(tasks, 1)) > set(numbers(tasks, None)) - {0}
    for number in numbers(tasks, None)[1:]:
        assert [task.until for task in tasks if task.number == number] == [0, 1, None]


def test_a_rung_that_was_the_whole_trial_promotes_nothing():
    source = proposals(trials=8, lag=1)
    proposed = []
    while (task := source.next()) is not None:
        proposed.append(task.number)
        whole = outcome(task).model_copy(update={"status": "finished"})
        source.complete(whole.model_copy(update={"history": whole.history[:1]}))
    assert proposed == list(range(8))


def test_trial_zero_is_the_paper_s_configuration():
    setting = proposals().next().setting
    assert (setting.scope, setting.beta, setting.sparsity) == ("global", 1.0, 0.9)
    outside = proposals(scopes=("group",), beta=(0.0, 0.5))
    assert outside.next().setting == setting
    assert outside.next().setting.scope == "group"


def test_a_pareto_search_draws_the_sparsity_and_stops_nothing():
    tasks = run(proposals(objective="map,sparsity"), 0)
    assert numbers(tasks, None) == list(range(20))
    assert len({round(task.setting.sparsity, 6) for task in tasks}) > 10


def test_failed_trials_teach_nothing_and_stop_nothing():
    source = proposals(trials=6, lag=1)
    for _ in range(6):
        task = source.next()
        source.complete(TrialResult(number=task.number, status="failed", reason="no", started=0, ended=1))
    assert source.next() is None
    assert source.exhausted


@pytest.mark.parametrize("text", ["speed", "map,map", "", "map,"])
def test_unknown_objectives_are_refused(text):
    with pytest.raises(UserError, match="must be distinct metrics out of map"):
        Objective.parse(text)
