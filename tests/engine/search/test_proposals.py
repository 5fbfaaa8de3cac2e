from __future__ import annotations

import math
import random

import pytest

from altermoma_ray.engine.search.drawing import Draws
from altermoma_ray.engine.search.proposals import Objective, Proposals
from altermoma_ray.engine.search.stopping import ranked
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.engine.trials.results import has_ended
from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.tracking.result import Evaluation, TrialResult

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}


def proposals(trials=20, lookahead=4, objective="map", repeat=None, stops_early=None, **space):
    figures = {"sparsity": 0.9, "trials": trials, "lookahead": lookahead, "seed": 7, "repeat": repeat}
    figures["stops_early"] = stops_early
    space = {"rungs": (0.25,), "reduction": 3.0, "patience": 0.0} | space
    return Proposals(SearchSpace(**space), SIZES, Objective.parse(objective, FIGURES), **figures)


def run(source, order_seed, known=()):
    """Run all segments, ending in a random order; returns the tasks in the order of their proposal."""
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
        sparsity={"total": task.setting.sparsity},
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
    source = proposals(lookahead=4)
    tasks = [source.next() for _ in range(4)]
    assert all(task is not None for task in tasks)
    assert source.next() is None
    source.complete(outcome(tasks[1]))
    assert source.next() is None
    source.complete(outcome(tasks[0]))
    assert source.next().number == 4


def test_trials_that_are_best_at_the_rung_go_on():
    tasks = run(proposals(lookahead=1), 0)
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
    source = proposals(lookahead=1, rungs=(0.25, 0.5), reduction=2.0)
    tasks = []
    while (task := source.next()) is not None:
        tasks.append(task)
        source.complete(outcome(task, rungs=2))
    assert source.exhausted
    assert set(numbers(tasks, 0)) > set(numbers(tasks, 1)) > set(numbers(tasks, None)) - {0}
    for number in numbers(tasks, None)[1:]:
        assert [task.until for task in tasks if task.number == number] == [0, 1, None]


def test_a_rung_waits_for_most_of_its_trials_before_any_goes_on():
    space = {"rungs": (0.0, 0.25), "rung_statistics": 4, "reduction": 2.0, "published_first": False}
    source = proposals(trials=16, lookahead=2, patience=0.75, **space)
    seen, begun, at_second = [], 0, 0
    while (task := source.next()) is not None:
        begun, at_second = begun + (task.until == 0), at_second + (task.until == 1)
        if task.until == 1:
            assert begun >= 12  # of 16
        if task.until is None:
            assert at_second >= 6  # of the 8 that are to come
        seen.append(task)
        source.complete(outcome(task, rungs=2))
    assert 8 <= len(numbers(seen, 1)) <= 10
    assert 4 <= len(numbers(seen, None)) <= 6


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_of_few_trials_the_best_of_each_rung_goes_on(trials):
    space = {"rungs": (0.0, 0.25), "rung_statistics": 4, "reduction": 4.0, "published_first": False}
    source = proposals(trials=trials, lookahead=2, **space)
    tasks, first = [], {}
    while (task := source.next()) is not None:
        tasks.append(task)
        source.complete(outcome(task, rungs=2))
        first.setdefault(task.number, outcome(task, rungs=2).metrics["map"])
    assert source.exhausted
    assert numbers(tasks, 0) == list(range(trials))
    assert numbers(tasks, 1) == numbers(tasks, None) == [max(first, key=first.get)]


def test_a_rung_that_was_the_whole_trial_promotes_nothing():
    source = proposals(trials=8, lookahead=1)
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


def test_a_pareto_search_of_an_earlier_release_stops_nothing():
    tasks = run(proposals(objective="map,sparsity"), 0)
    assert numbers(tasks, None) == list(range(20))
    assert len({round(task.setting.sparsity, 6) for task in tasks}) > 10


def test_a_pareto_search_draws_the_sparsity_and_stops_trials_that_others_beat():
    tasks = run(proposals(objective="map,sparsity", stops_early=True), 0)
    assert len({round(task.setting.sparsity, 6) for task in tasks if task.until == 0}) > 10
    promoted = numbers(tasks, None)
    assert promoted[0] == 0
    assert 20 // 3 <= len(promoted) - 1 <= 9
    points = {task.number: (outcome(task).metrics["map"], outcome(task).sparsity["total"]) for task in tasks}
    assert set(ranked(points)[:3]) <= set(promoted)
    assert all(run(proposals(objective="map,sparsity", stops_early=True), order) == tasks for order in (1, 2))


def test_points_are_ranked_front_by_front_and_those_with_room_around_them_first():
    first = {0: (1.0, 9.0), 1: (3.0, 7.0), 2: (4.0, 6.5), 3: (9.0, 1.0)}  # room: none at the ends, 1 by 3, 2 by 3
    second = {4: (0.5, 8.0), 5: (8.0, 0.5)}
    third = {6: (0.25, 0.25)}
    unknown = {7: (math.nan, 9.0), 8: (9.0, -math.inf)}
    # Point 1 spans (4 − 1 + 9 − 6.5) / 8 = 0.6875, and point 2 (9 − 3 + 7 − 1) / 8 = 1.5 of the front's ranges.
    assert ranked(first | second | third | unknown) == [0, 3, 2, 1, 4, 5, 6, 7, 8]
    assert ranked({2: (0.5,), 0: (0.25,), 1: (0.5,), 3: (math.nan,)}) == [1, 2, 0, 3]
    assert ranked({}) == []


def test_failed_trials_teach_nothing_and_stop_nothing():
    source = proposals(trials=6, lookahead=1)
    for _ in range(6):
        task = source.next()
        source.complete(TrialResult(number=task.number, status="failed", reason="no", started=0, ended=1))
    assert source.next() is None
    assert source.exhausted


@pytest.mark.parametrize("text", ["speed", "map,map", "", "map,", "car", "ap/", "ap/ap/car"])
def test_unknown_objectives_are_refused(text):
    with pytest.raises(UserError, match="must be distinct metrics out of map"):
        Objective.parse(text, FIGURES)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("objective", ["map", "map,sparsity"])
def test_a_trial_whose_objective_is_no_number_is_neither_promoted_nor_learnt_from(objective, value):
    def result(task, broken):
        found = outcome(task)
        if task.number not in broken:
            return found
        history = [entry.model_copy(update={"metrics": {"map": value}}) for entry in found.history]
        return found.model_copy(update={"metrics": {"map": value}, "history": history})

    def search(broken):
        source, tasks = proposals(objective=objective, lookahead=1), []
        while (task := source.next()) is not None:
            tasks.append(task)
            source.complete(result(task, broken))
        assert source.exhausted
        return tasks

    broken = set(range(0, 20, 2))
    tasks = search(broken)
    assert {task.number for task in tasks} == set(range(20))
    assert len({task.setting.model_dump_json() for task in tasks}) == 20
    if objective == "map":
        promoted = set(numbers(tasks, None)) - {0}
        assert promoted
        assert not promoted & broken
        assert numbers(search(set(range(20))), None) == [0]  # all of them: none goes on, and the search ends


FEW = {
    "scopes": ("global",),
    "criteria": ("snip",),
    "schedules": ("one-shot", "linear", "cubic"),
    "learning_rate": (1e-3, 1e-3),
}
"""Three settings; the paper's own is none of them."""


def distinct_settings(tasks):
    return {task.setting.model_dump_json() for task in tasks}


def test_settings_of_a_finite_space_are_counted():
    def count(most=1000, sparsity=0.9, **space):
        return number_of_settings(SearchSpace(**space), SIZES, sparsity, most)

    assert count(**FEW) == 4
    assert count(most=3, **FEW) == 3
    own = {"criteria": ("altermoma",), "beta": (1.0, 1.0), "reactivation_learning_rates": (1e-4,)}
    own |= {"reactivation_gradient": "last-batch"}
    assert count(**FEW | own) == 3  # the paper's own is one of them
    assert count(**FEW | own | {"reactivation_steps": (1, 2, 4)}) == 9
    unread = {"criteria": ("altermoma",), "beta": (0.0, 0.0), "reactivation_steps": (1, 2, 4)}
    assert count(**FEW | unread) == 4  # with β = 0 nothing is reactivated, whatever B is
    even = {"scopes": ("global", "group"), "preference": (0.5, 0.5)}
    assert count(**FEW | even) == 7
    for endless in ({"learning_rate": (1e-4, 1e-3)}, {"scopes": ("global", "group")}, {"criteria": ("altermoma",)}):
        assert count(**FEW | endless) == 1000
    assert count(sparsity=None, **FEW) == 1000


def test_each_setting_is_run_once_in_the_same_order_whatever_ends_first():
    runs = [run(proposals(trials=12, repeat=False, **FEW), order) for order in range(4)]
    assert all(other == runs[0] for other in runs[1:])
    assert numbers(runs[0], 0) == [1, 2, 3]
    assert len(distinct_settings(runs[0])) == 4
    assert {task.seed for task in runs[0]} == {None}


def test_settings_that_are_repeated_get_a_seed_of_their_own():
    tasks = [task for task in run(proposals(trials=12, repeat=True, **FEW), 0) if task.until == 0 or task.number == 0]
    assert len(tasks) == 12
    assert len({(task.setting.model_dump_json(), task.seed) for task in tasks}) == 12
    assert tasks == [t for t in run(proposals(trials=12, repeat=True, **FEW), 1) if t.until == 0 or t.number == 0]


def test_a_plan_of_before_proposes_what_it_did():
    tasks = run(proposals(trials=12, **FEW), 0)
    assert {task.number for task in tasks} == set(range(12))
    assert len(distinct_settings(tasks)) == 4
    assert {task.seed for task in tasks} == {None}
    endless = [run(proposals(repeat=repeat), 0) for repeat in (None, False, True)]
    assert endless[0] == endless[1] == endless[2]  # where nothing comes twice, nothing changes


@pytest.mark.parametrize("stopped_after", range(1, 24, 4))
def test_a_resumed_search_of_few_settings_proposes_what_an_undisturbed_one_does(stopped_after):
    space = FEW | {"criteria": ("snip", "deci"), "reactivation_steps": (1, 2), "learning_rate": (1e-3, 1e-3)}
    space |= {"scopes": ("global", "group"), "preference": (0.0, 0.0)}
    whole = run(proposals(trials=50, repeat=False, **space), 0)
    assert len(distinct_settings(whole)) == len({task.number for task in whole}) == 13
    known = {task.number: outcome(task) for task in whole[:stopped_after]}
    assert run(proposals(trials=50, repeat=False, **space), 1, known.values()) == whole


def test_a_space_of_which_a_part_is_finite_never_repeats_either():
    space = FEW | {"scopes": ("global", "group")}
    tasks = run(proposals(trials=40, repeat=False, **space), 0)
    assert len(distinct_settings(tasks)) == 40


@pytest.mark.parametrize("objective", ["map", "map,sparsity"])
def test_draws_learn_from_250_trials_good_ones_however_old_and_the_latest(objective):
    def result(number):
        good = number < 25  # and a Pareto front
        value, sparsity = (2 - number / 1000, 0.9 + number / 1000) if good else (number % 100 / 100, number % 7 / 10)
        figures = {"metrics": {"map": value}, "sparsity": {"total": sparsity}, "params_left": 1000}
        return TrialResult(number=number, status="finished", started=0, ended=1, **figures)

    def draw(unseen):
        figures = {"sparsity": None if objective == "map,sparsity" else 0.9, "trials": 400, "seed": 7}
        draws = Draws(SearchSpace(), SIZES, Objective.parse(objective, FIGURES), **figures)
        for number in range(300):
            draws.setting(number)
        for number in set(range(300)) - set(unseen):
            draws.see(number, None, result(number))
        return draws.setting(300)

    whole = draw(unseen=())
    assert draw(unseen=range(30, 75)) == whole
    assert draw(unseen=range(5)) != whole
    assert draw(unseen=range(280, 300)) != whole
