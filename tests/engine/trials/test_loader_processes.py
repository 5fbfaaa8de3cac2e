"""A trial whose samples other processes load finds what it finds alone, whether or not it stops at its rungs."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.workloads import find_workload

OWN = Path(__file__).parents[2] / "workloads" / "two_branch.py"
SPACE = SearchSpace(fine_tune_epochs=1.5, rungs=(0.0, 0.25), rung_samples=4, rung_statistics=2, scoring_batches=1)
TASK = TrialTask(
    number=0,
    setting=PruningSetting(scope="global", sparsity=0.5, criterion="magnitude", schedule="linear", learning_rate=1e-3),
)


@pytest.fixture
def job_of(tmp_path):
    """A search's job on a workload with a number of loader processes."""
    names = []

    def make(processes):
        text = OWN.read_text().replace("recipe=Recipe(", f"recipe=Recipe(loader_processes={processes}, ")
        assert "loader_processes" in text
        names.append(f"loads_with_{processes}")
        file = tmp_path / f"{names[-1]}.py"
        file.write_text(text)
        workload = find_workload(f"{file}:WORKLOAD", str(tmp_path / "storage"))
        request = SearchRequest(workload=workload, name=file.stem, space=SPACE, sparsity=0.5, trials=1, seed=3)
        return plan_search(request).trial_job()

    yield make
    for name in names:
        sys.modules.pop(name, None)


def test_loader_processes_change_nothing_that_a_trial_finds(one_thread, job_of):
    alone, ahead = job_of(0), job_of(1)
    list(TrialRunner(alone).run(TASK))
    runner = TrialRunner(ahead)
    list(runner.run(TASK))
    through = read_result(ahead, 0)
    (process,) = multiprocessing.active_children()

    ahead.trial_folder(0).join("result.json").delete()
    for rung in (0, 1, None):
        list(runner.run(TASK.model_copy(update={"until": rung})))
    stopping = read_result(ahead, 0)
    assert multiprocessing.active_children() == [process]  # of all evaluations and fine-tunings of the runner

    expected = read_result(alone, 0)
    assert len(expected.history) == 3
    for found in (through, stopping):
        assert found.history == expected.history
        assert found.sparsity == expected.sparsity
        assert found.histogram == expected.histogram
