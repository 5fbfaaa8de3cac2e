"""Trials with distillation: they learn from the unpruned model, and go on after a death as an undisturbed trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.storage import Location
from altermoma_ray.workloads.reference import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = SearchSpace(fine_tune_epochs=3.0, rungs=(0.5,), scoring_batches=1, criteria=("magnitude",))
FILE = Path(__file__).parents[2] / "workloads" / "two_branch.py"


@pytest.fixture
def job_of(tmp_path):
    def make(name):
        workload = find_workload(f"{FILE}:WORKLOAD", str(tmp_path / "storage"))
        request = SearchRequest(
            workload=workload, name=name, space=SPACE, sparsity=0.4, trials=2, seed=3, save_every=0, checkpoint=None
        )
        return plan_search(request).trial_job()

    return make


def task(weight):
    setting = PruningSetting(
        scope="global",
        sparsity=0.4,
        criterion="magnitude",
        learning_rate=1e-2,
        distillation=weight,
    )
    return TrialTask(number=0, setting=setting)


def kept(job):
    model, _ = job.workload.load().load(job.trial_folder(0).join("model.safetensors"))
    return model


def distance(job):
    """The mean squared difference between the outputs of the pruned and the unpruned model."""
    workload = job.workload.load()
    data = workload.source()
    batch = data.collate(data.dataset(data.rows("validation"), augment=False, seed=0))
    whole, _ = workload.load(Location.parse(job.scoring.checkpoint))
    with torch.no_grad():
        return float(functional.mse_loss(kept(job)(batch), whole(batch)))


def test_a_distilled_model_is_nearer_to_the_unpruned_one_after_the_same_steps(job_of):
    plain, distilled = job_of("plain"), job_of("distilled")
    for job, weight in ((plain, 0.0), (distilled, 10.0)):
        list(TrialRunner(job).run(task(weight)))
    assert distance(distilled) < 0.5 * distance(plain)
    one, other = read_result(plain, 0), read_result(distilled, 0)
    assert [entry.step for entry in one.history] == [entry.step for entry in other.history]
    assert "distillation" not in one.params
    assert other.params["distillation"] == 10.0


def test_one_runner_s_trials_do_not_disturb_each_other(job_of):
    alone, beside = job_of("alone"), job_of("beside")
    list(TrialRunner(alone).run(task(1.0)))
    runner = TrialRunner(beside)
    list(runner.run(task(0.0).model_copy(update={"number": 1})))
    list(runner.run(task(1.0)))
    assert read_result(alone, 0).history == read_result(beside, 0).history


def test_an_interrupted_trial_equals_an_undisturbed_one(job_of):
    undisturbed, broken = job_of("undisturbed"), job_of("broken")
    list(TrialRunner(undisturbed).run(task(1.0)))
    running = TrialRunner(broken).run(task(1.0))
    next(running)  # its rung
    next(running)  # the state after the rung is kept before training goes on
    running.close()
    assert broken.trial_folder(0).join("halfway.safetensors").exists()
    list(TrialRunner(broken).run(task(1.0)))
    assert read_result(broken, 0).metrics == read_result(undisturbed, 0).metrics
    states = [kept(job).state_dict() for job in (undisturbed, broken)]
    assert all(map(torch.equal, states[0].values(), states[1].values()))
