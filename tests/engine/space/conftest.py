from __future__ import annotations

from itertools import count

import optuna
import pytest

from altermoma_ray.engine.search.proposals import Proposals
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import Evaluation, TrialResult

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}


def _result(task):
    value = 1 / (1 + task.setting.beta) + 100 * task.setting.learning_rate
    stops = range(2) if task.until is None else range(task.until + 1)
    history = [Evaluation(step=10 * (rung + 1), metrics={"map": value * (rung + 1) / 2}) for rung in stops]
    return TrialResult(
        number=task.number, status="finished" if task.until is None else "stopped", metrics=history[-1].metrics,
        history=history, sparsity={"total": task.setting.sparsity}, params_left=1000, started=0, ended=1,
    )  # fmt: skip


@pytest.fixture
def propose():
    """The segments of a search over a space; with ``stopped``, of one that was stopped after so many and resumed."""

    def run(space, *, trials=12, sparsity=0.9, stopped=0):
        def search(known):
            figures = {"sparsity": sparsity, "trials": trials, "lookahead": 2, "seed": 3, "repeat": False}
            source, tasks = Proposals(space, SIZES, Objective.parse("map", FIGURES), **figures), []
            for result in known:
                source.complete(result)
            for _ in count():
                if (task := source.next()) is None:
                    assert source.exhausted
                    return tasks
                tasks.append(task)
                if len(tasks) > len(known):
                    source.complete(_result(task))
            return tasks

        whole = search([])
        if not stopped:
            return whole
        ended = {task.number: _result(task) for task in whole[:stopped]}
        return search(list(ended.values()))

    return run


@pytest.fixture
def draw():
    """Settings that a space draws at random, with the names of their draws."""

    def run(space, times=20, sparsity=0.9, sizes=SIZES):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        trials = [study.ask() for _ in range(times)]
        return [(space.suggest(trial, sizes, sparsity), set(trial.params)) for trial in trials]

    return run
