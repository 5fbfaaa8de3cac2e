"""A search whose metrics are computed beside its trials, by a process that dies; real Ray, real Tune."""

from __future__ import annotations

from pathlib import Path

from ray import tune

from altermoma_ray.engine.search import metrics
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.search.run import tune_trials
from altermoma_ray.engine.search.searcher import ProposalSearcher
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trainable import TrialActor
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.workloads.reference import find_workload

SPACE = SearchSpace(criteria=("magnitude",), fine_tune_epochs=1.0, rungs=(0.5,), rung_samples=8, published_first=False)
TWO_BRANCH = Path(__file__).parents[2] / "workloads" / "two_branch.py"
DYING = """

def _dying(self, predictions, data, rows, evaluate=Regression.evaluate):
    import os, pathlib, signal

    import ray

    if ray.is_initialized() and (ray.get_runtime_context().get_actor_name() or "").startswith("metrics-"):
        beside = pathlib.Path({folder!r}, "beside")
        first = not beside.exists()
        beside.touch()
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(self, predictions, data, rows)


Regression.evaluate = _dying
"""


def figures(result):
    """What a trial found, without how long it took and where."""
    return result.model_dump(exclude={"seconds", "started", "ended", "configuration"})


def segment(result):
    """A trial, and how many evaluations it has behind it."""
    return result.number, len(result.history)


def test_a_search_with_metrics_from_beside_finds_the_same(ray_of_four, one_thread, tmp_path, monkeypatch, capsys):
    file = tmp_path / "dying.py"
    file.write_text(TWO_BRANCH.read_text() + DYING.format(folder=str(tmp_path)))
    workload = find_workload(f"{file}:WORKLOAD", str(tmp_path / "storage"))
    searching, alone = (
        plan_search(SearchRequest(workload=workload, name=name, space=SPACE, sparsity=0.5, trials=5)).model_copy(
            update={"lookahead": 2}
        )
        for name in ("searching", "alone")
    )
    monkeypatch.setattr(metrics, "WORTH_SECONDS", 0.0)  # beside from the second trial on
    job, ended = searching.trial_job(), []
    searcher = ProposalSearcher(searching.proposer(), job, ended.append)
    actor = tune.with_resources(tune.with_parameters(TrialActor, job=job), {"CPU": 1})
    tune_trials(searching, searcher, actor)
    assert (tmp_path / "beside").exists()
    assert "its metrics were lost; it goes on from the state it kept" in capsys.readouterr().err

    proposals, runner = alone.proposer(), TrialRunner(alone.trial_job())
    order = []
    while (task := proposals.next()) is not None:
        list(runner.run(task))
        order.append(read_result(alone.trial_job(), task.number))
        proposals.complete(order[-1])
    assert sorted(map(segment, ended)) == sorted(map(segment, order))
    assert [figures(result) for result in searching.results()] == [figures(result) for result in alone.results()]
