"""A rung that shows a trial's end: its last masks, with normalisation statistics of their own."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.training.loop import training_batches
from altermoma_ray.engine.training.norms import retake_statistics
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner

STATISTICS = 2
SPACE = SearchSpace(
    fine_tune_epochs=4.0,
    iterative_rounds=2,
    pruning_phase=0.75,
    rungs=(0.0, 0.25),
    rung_samples=2,
    rung_statistics=STATISTICS,
    scoring_batches=1,
)
TASK = TrialTask(
    number=0,
    setting=PruningSetting(scope="global", sparsity=0.8, criterion="magnitude", schedule="linear", learning_rate=1e-3),
)


@pytest.fixture
def job_of(workload, checkpoint):
    def job(name, space):
        request = SearchRequest(
            workload=workload, name=name, checkpoint=str(checkpoint), space=space, sparsity=0.8, trials=1, seed=3
        )
        return plan_search(request).trial_job()

    return job


@pytest.mark.parametrize(("samples", "size", "evaluated"), [(40, 150, 40), (0.07, 150, 11), (0.07, 1, 1)])
def test_samples_of_a_rung_are_a_number_or_a_share(job_of, samples, size, evaluated):
    job = job_of("samples", SearchSpace(rung_samples=samples))
    assert TrialJob.model_validate_json(job.model_dump_json()).rung_size(size) == evaluated


def tensors(job):
    """The kept model of the only trial."""
    return safetensors.torch.load(job.trial_folder(0).join("model.safetensors").read_bytes())


def zeros(model, masks):
    """The share of the prunable weights that are zero."""
    return sum(int((model[name] == 0).sum()) for name in masks) / sum(masks[name].numel() for name in masks)


def test_rungs_show_the_last_masks_and_leave_training_alone(one_thread, job_of, workload, checkpoint):
    job, plain = (
        job_of("rungs", SPACE),
        job_of("plain", SearchSpace(**{**dict(SPACE), "rungs": (), "rung_statistics": 0})),
    )
    runner = TrialRunner(job)

    list(runner.run(TASK.model_copy(update={"until": 0})))
    stopped, model, (_, masks) = read_result(job, 0), tensors(job), runner.decide(TASK)
    assert (stopped.status, [entry.step for entry in stopped.history]) == ("stopped", [0])
    loading = workload.load()
    expected, _ = loading.load(checkpoint)
    with torch.no_grad():
        for name, weight in expected.named_parameters():
            if name in masks:
                weight.mul_(masks[name])
    batches = training_batches(loading.source(), loading.recipe, steps=STATISTICS, seed=3, augment=False)
    retake_statistics(expected, batches)
    assert all(torch.equal(tensor, model[name]) for name, tensor in expected.state_dict().items())

    list(runner.run(TASK.model_copy(update={"until": 1})))
    assert zeros(tensors(job), masks) == pytest.approx(0.8, abs=1e-3)  # by its schedule the trial is not there yet

    list(runner.run(TASK))
    list(TrialRunner(plain).run(TASK))
    one, other = read_result(plain, 0), read_result(job, 0)
    assert [entry.step for entry in other.history[:2]] == [0, round(0.25 * one.history[-1].step)]
    assert other.history[0] == stopped.history[0]
    assert other.metrics == one.metrics
    assert all(torch.equal(tensor, tensors(job)[name]) for name, tensor in tensors(plain).items())


@pytest.mark.parametrize(
    ("rungs", "statistics", "message"),
    [
        ((0.0,), 0, r"`rungs` must rise inside \(0, 1\)"),
        ((0.1,), 0, "`rung_statistics`"),
        ((0.0, 1.0), 1, r"`rungs` must rise inside \[0, 1\)"),
        ((-0.1,), 1, r"`rungs` must rise inside \[0, 1\)"),
    ],
)
def test_rungs_out_of_reach_are_refused(rungs, statistics, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(rungs=rungs, rung_statistics=statistics)
    assert SearchSpace(rungs=(0.0, 0.1), rung_statistics=1).rungs == (0.0, 0.1)
