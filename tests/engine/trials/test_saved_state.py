"""A trial that dies halfway goes on there, and finds what an undisturbed one finds."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import has_ended, read_result
from altermoma_ray.engine.trials.saved_state import SavedState, seeded
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import Evaluation

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = SearchSpace(
    fine_tune_epochs=4.0, iterative_rounds=2, pruning_phase=0.25, rungs=(0.5,), rung_samples=2, scoring_batches=1
)
TASK = TrialTask(
    number=0,
    setting=PruningSetting(scope="global", sparsity=0.8, criterion="magnitude", schedule="linear", learning_rate=1e-3),
)


def job_of(workload, checkpoint, name):
    request = SearchRequest(
        workload=workload,
        name=name,
        checkpoint=str(checkpoint),
        space=SPACE,
        sparsity=0.8,
        trials=1,
        seed=3,
        save_every=0,
    )
    return plan_search(request).trial_job()


def test_an_interrupted_trial_equals_an_undisturbed_one(workload, checkpoint):
    undisturbed = job_of(workload, checkpoint, "undisturbed")
    reports = list(TrialRunner(undisturbed).run(TASK))

    broken = job_of(workload, checkpoint, "broken")
    running = TrialRunner(broken).run(TASK)
    first = next(running)  # its rung
    next(running)  # the state after the rung is kept before training goes on
    running.close()
    assert read_result(broken, 0) is None
    assert broken.trial_folder(0).join("halfway.safetensors").exists()

    rest = list(TrialRunner(broken).run(TASK))
    assert [report["step"] for report in rest] == [reports[-1]["step"]]
    one, other = read_result(undisturbed, 0), read_result(broken, 0)
    assert [entry.step for entry in other.history] == [int(first["step"]), int(reports[-1]["step"])]
    assert one.metrics == other.metrics
    assert one.sparsity == other.sparsity
    kept = [job.trial_folder(0).join("masks.safetensors").read_bytes() for job in (undisturbed, broken)]
    assert kept[0] == kept[1]
    assert not broken.trial_folder(0).join("halfway.safetensors").exists()

    ended = broken.trial_folder(0).join("result.json").read_bytes()
    assert list(TrialRunner(broken).run(TASK)) == []  # as when its process dies before it tells
    assert broken.trial_folder(0).join("result.json").read_bytes() == ended


def test_a_promoted_trial_equals_one_that_ran_through(workload, checkpoint):
    through, climbing = (job_of(workload, checkpoint, name) for name in ("through", "climbing"))
    list(TrialRunner(through).run(TASK))
    runner = TrialRunner(climbing)
    to_the_rung = list(runner.run(TASK.model_copy(update={"until": 0})))
    stopped = read_result(climbing, 0)
    assert stopped.status == "stopped"
    assert has_ended(stopped, 0)
    assert not has_ended(stopped, None)
    rest = list(runner.run(TASK))
    one, other = read_result(through, 0), read_result(climbing, 0)
    assert [report["step"] for report in to_the_rung + rest] == [entry.step for entry in one.history]
    assert (other.status, other.metrics, other.history) == ("finished", one.metrics, one.history)
    assert other.started == stopped.started
    assert other.seconds["fine_tune"] > stopped.seconds["fine_tune"]


def test_the_state_of_another_trial_is_left_alone(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    file = Location.parse(tmp_path / "halfway.safetensors")
    assert SavedState(file, "one", every=0).restore(model, optimizer) == (0, [])
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    history = [Evaluation(step=3, metrics={"map": 0.5})]
    SavedState(file, "one", every=60).save(3, history, model, optimizer)
    assert not file.exists()  # too early
    SavedState(file, "one", every=0).save(3, history, model, optimizer)
    again = torch.nn.Linear(2, 2)
    other = torch.optim.AdamW(again.parameters())
    assert SavedState(file, "two", every=0).restore(again, other) == (0, [])
    assert SavedState(file, "one", every=0).restore(again, other) == (3, history)
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(other.state[again.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])


def test_random_numbers_follow_from_seed_and_step():
    def draw(first):
        return [float(torch.rand(())) for _ in seeded(range(4 - first), 5, first)]

    assert draw(0)[2:] == draw(2)
    assert draw(0) == draw(0)
    assert len(set(draw(0))) == 4


def test_a_trial_of_one_step_has_its_rung_at_its_end(workload, checkpoint):
    job = job_of(workload, checkpoint, "short").model_copy(update={"fine_tune_epochs": 1e-6, "rungs": (0.25,)})
    list(TrialRunner(job).run(TASK.model_copy(update={"until": 0})))
    result = read_result(job, 0)
    assert (result.status, [entry.step for entry in result.history]) == ("finished", [1])
