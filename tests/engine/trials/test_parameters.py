"""Trials whose criterion has parameters of their own: what they store, prune and tell."""

from __future__ import annotations

import pytest
from safetensors.torch import load

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import Choice, Fixed, PruningSetting, SearchSpace
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.pruning import Masks

SPACE = SearchSpace(
    criteria=("altermoma", "prospr", "synflow"), fine_tune_epochs=0.5, rungs=(), scoring_batches=1,
    parameters={
        "prospr": {"steps": Choice((0, 1))},
        "synflow": {"rounds": Choice((1, 3)), "balanced": Fixed(False)},
    },
)  # fmt: skip


@pytest.fixture
def run(workload, checkpoint):
    request = SearchRequest(
        workload=workload, name="parameters", checkpoint=str(checkpoint), space=SPACE, sparsity=0.8, trials=8, seed=3
    )
    job = plan_search(request).trial_job()
    runner = TrialRunner(job)

    def run_one(number, **fields):
        setting = PruningSetting(scope="global", sparsity=0.8, learning_rate=1e-3, **fields)
        task = TrialTask(number=number, setting=setting)
        list(runner.run(task))
        masks = Masks.from_tensors(load(job.trial_folder(number).join("masks.safetensors").read_bytes()))
        return job, read_result(job, number), masks

    return run_one


def test_values_of_a_parameter_are_scored_apart_and_told_with_the_trial(run):
    files, kept = set(), []
    for number, steps in enumerate((0, 1)):
        job, result, masks = run(number, criterion="prospr", parameters={"steps": steps})
        assert result.status == "finished"
        assert result.params["prospr.steps"] == steps
        assert PruningSetting.model_validate(result.configuration["setting"]).parameters == {"steps": steps}
        files |= {file.name for file in job.scoring.folder().children()}
        kept.append(masks)
    assert len([name for name in files if name.startswith("scores-prospr")]) == 2
    assert any(bool((kept[0][name] != kept[1][name]).any()) for name in kept[0])
    assert job.scoring.missing().criteria == ()  # both were known beforehand, and are there


def test_masks_of_a_criterion_s_own_rounds_are_kept_apart(run):
    for number, rounds in enumerate((1, 3)):
        job, result, masks = run(number, criterion="synflow", parameters={"rounds": rounds, "balanced": False})
        assert result.params["synflow.rounds"] == rounds
        assert masks.sparsity() == pytest.approx(0.8, abs=1e-3)
    assert len([file for file in job.scoring.folder().children() if file.name.startswith("masks-synflow")]) == 2
