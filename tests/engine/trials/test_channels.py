"""Trials that remove whole channels: what they train is what they keep, smaller."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.engine.scoring.score import ScoringWorker
from altermoma_ray.engine.scoring.units import bound_units
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.engine.trials import trial
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.pruning import prunable_weights
from altermoma_ray.storage import Location
from altermoma_ray.testing.values import copied, differences

SPACE = SearchSpace(
    criteria=("altermoma",), fine_tune_epochs=0.5, rungs=(), scoring_batches=1, granularities=("channel",)
)


@pytest.fixture
def job(workload, checkpoint):
    request = SearchRequest(
        workload=workload, name="channels", checkpoint=str(checkpoint), space=SPACE, sparsity=0.4, trials=2, seed=3
    )
    return plan_search(request).trial_job()


def setting(**fields):
    common = {"scope": "global", "sparsity": 0.4, "learning_rate": 1e-3, "criterion": "magnitude"}
    return PruningSetting(**common, granularity="channel", **fields)


# The fine-tuning of the second one has fewer steps than its schedule has rounds.
@pytest.mark.parametrize(("epochs", "schedule"), [(0.0, "one-shot"), (None, "cubic")])
def test_the_model_that_is_kept_is_the_trained_one_without_its_channels(job, epochs, schedule, monkeypatch):
    monkeypatch.setattr(trial, "BATCHES", 2)
    task = TrialTask(number=0, setting=setting(schedule=schedule), fine_tune_epochs=epochs)
    runner = TrialRunner(job)
    reports = list(runner.run(task))
    result = read_result(job, 0)
    assert result.status == "finished"
    assert 0.4 <= result.sparsity["total"] < 0.43
    workload = job.workload.load()
    small, _ = workload.load(job.trial_folder(0).join("model.safetensors"))
    whole, _ = workload.load(Location.parse(job.scoring.checkpoint))
    left = sum(weight.numel() for weight in prunable_weights(small).values())
    assert left == result.params_left < sum(weight.numel() for weight in prunable_weights(whole).values())
    data = workload.source()
    metrics = Evaluator(data, data.rows("validation"), batch_size=2)(small, workload.task_for(small))
    assert metrics["nds"] == pytest.approx(reports[-1]["nds"], abs=1e-3)
    # An evaluation leaves training as it was, though its figures are of other statistics.
    with torch.no_grad():
        runner._model.fuser[1].running_mean.add_(1)
    before = copied(runner._model.state_dict())
    assert runner._predictions(task, Evaluator(data, data.rows("validation", limit=1), batch_size=1))
    assert not differences(copied(runner._model.state_dict()), before)
    again = SearchRequest(
        workload=job.workload,
        checkpoint=str(job.trial_folder(0).join("model.safetensors")),
        space=SPACE,
        sparsity=0.5,
    )
    kept, _ = workload.load(Location.parse(plan_search(again).checkpoint))
    assert kept.channel_plan == small.channel_plan


@pytest.mark.parametrize("criterion", ["imp", "synflow"])
def test_a_criterion_that_prunes_in_rounds_leaves_masks_of_whole_channels(job, criterion):
    parameters = {"rounds": 2, **({"steps": 1} if criterion == "imp" else {})}
    given = setting().model_dump() | {"criterion": criterion, "parameters": parameters}
    (request,) = PruningSetting.model_validate(given).wanted().masks
    worker = ScoringWorker(job.scoring.model_copy(update={"masks": (request,)}))
    masks = worker.masks(worker.problem(), request)
    assert 0.4 <= masks.sparsity() < 0.43
    units = bound_units(request.units, worker.model, job.workload.load().source())
    small = units.finalise(worker.model, masks)
    assert sum(weight.numel() for weight in prunable_weights(small).values()) == masks.kept()


def test_a_sparsity_out_of_reach_fails_one_trial_with_the_reason(job):
    ratios = {"camera": 0.2, "lidar": 0.99, "fusion": 0.2}
    given = setting().model_dump() | {"scope": "group", "ratios": ratios}
    list(TrialRunner(job).run(TrialTask(number=1, setting=PruningSetting.model_validate(given))))
    result = read_result(job, 1)
    assert result.status == "failed"
    assert "channels of the group lidar can go up to a sparsity of 0.9" in result.reason
