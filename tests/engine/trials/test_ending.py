"""Runs whose last metrics are computed by another process: the same results, told the same way."""

from __future__ import annotations

import pickle

import pytest

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.trials.ending import Finisher
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.errors import UserError
from altermoma_ray.workloads.reference import find_workload

SPACE = SearchSpace(fine_tune_epochs=2.0, rungs=(0.5,), rung_samples=8)
TASK = TrialTask(
    number=0, setting=PruningSetting(scope="global", sparsity=0.5, criterion="magnitude", learning_rate=1e-2)
)
RUNG = TASK.model_copy(update={"until": 0})


@pytest.fixture
def job_of(tmp_path):
    def job(name):
        workload = find_workload("tests.workloads.two_branch:WORKLOAD", str(tmp_path / "storage"))
        objective = "error,error/without-radar"
        return (
            plan_search(
                SearchRequest(workload=workload, name=name, space=SPACE, sparsity=0.5, trials=1, objective=objective)
            )
            .trial_job()
            .model_copy(update={"rungs": (0.5,)})
        )

    return job


def beside(job, task, finisher=None):
    """Run a trial, its predictions pickled on their way; nothing is in storage before the other process is done."""
    before, endings = read_result(job, 0), []
    reports = list(TrialRunner(job).run(task, endings.append))
    (ending,) = endings
    assert read_result(job, 0) == before
    finisher = finisher or Finisher(job)
    finisher.take(pickle.loads(pickle.dumps(ending)))
    assert finisher.finish(task)
    return reports


def figures(job):
    """What a trial found, without how long it took and where."""
    found = read_result(job, 0).model_dump(exclude={"seconds", "started", "ended", "configuration"})
    return found, job.trial_folder(0).join("masks.safetensors").read_bytes()


def test_metrics_from_beside_make_the_same_result(job_of):
    alone, other = job_of("alone"), job_of("other")
    finisher = Finisher(other)
    for task in (RUNG, TASK):
        list(TrialRunner(alone).run(task))
        reports = beside(other, task, finisher)
        assert figures(alone) == figures(other)
        assert [set(report) for report in reports] == [{"step"}]
        seconds = [read_result(job, 0).seconds for job in (alone, other)]
        assert set(seconds[0]) == set(seconds[1])
    assert "error/without-radar" in read_result(other, 0).metrics
    assert len(read_result(other, 0).history) == 2
    assert not finisher.finish(TASK)  # nothing is held any more
    assert not other.trial_folder(0).join("halfway.safetensors").exists()


def test_a_run_through_a_rung_leaves_its_last_metrics_alone_to_another(job_of):
    alone, other = job_of("alone"), job_of("other")
    list(TrialRunner(alone).run(TASK))
    reports = beside(other, TASK)
    assert figures(alone) == figures(other)
    assert [set(report) > {"step"} for report in reports] == [True, False]


def test_lost_metrics_are_made_again_from_the_state_at_the_rung(job_of, monkeypatch):
    alone, other = job_of("alone"), job_of("other")
    list(TrialRunner(alone).run(RUNG))
    list(TrialRunner(other).run(RUNG, lambda ending: None))
    assert read_result(other, 0) is None
    assert not Finisher(other).finish(RUNG)
    workload = other.workload.load()
    monkeypatch.setattr(workload.task, "loss", None)  # nothing is trained again
    beside(other, RUNG)
    assert figures(alone) == figures(other)
    monkeypatch.undo()
    for job in (alone, other):
        list(TrialRunner(job).run(TASK))
    assert figures(alone) == figures(other)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (FloatingPointError("the metric is nan"), "the metric is nan"),
        (UserError("the table of categories is gone"), None),
    ],
)
def test_errors_of_a_metric_are_told_as_in_the_trials_own_process(error, reason, job_of, monkeypatch):
    def fail(*_):
        raise error

    job = job_of("broken")
    monkeypatch.setattr(job.workload.load().task, "evaluate", fail, raising=False)
    if reason is None:
        with pytest.raises(UserError, match=r"^the table of categories is gone$"):
            beside(job, RUNG)
        assert read_result(job, 0) is None
    else:
        beside(job, RUNG)
        assert (read_result(job, 0).status, read_result(job, 0).reason) == ("failed", reason)
