"""Results of trials in storage: reading them, recording a failure, and forgetting the state behind them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.places import kept_in
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import Evaluation, TrialResult


def read_result(job: TrialJob, number: int) -> TrialResult | None:
    """The result of a trial; None for a trial still to end."""
    file = job.trial_folder(number).join("result.json")
    return TrialResult.from_json(file.read_bytes()) if file.exists() else None


def has_ended(result: TrialResult, until: int | None) -> bool:
    """Whether a trial has run to a rung, or further.

    >>> failed = TrialResult(number=3, status="failed", reason="the loss is nan at step 4", started=0, ended=9)
    >>> has_ended(failed, until=None)
    True

    Args:
        result: the trial's result.
        until: the rung; None asks for the trial's end.
    """
    # A trial is evaluated once at each rung, so its evaluations count the rungs behind it.
    return result.status != "stopped" or (until is not None and len(result.history) > until)


def record_failure(
    job: TrialJob,
    trial: TrialTask,
    reason: str,
    *,
    history: Sequence[Evaluation] = (),
    seconds: Mapping[str, float] | None = None,
) -> TrialResult:
    """Write the result of a trial without a model; the trial's earlier evaluations stay in its history.

    Args:
        job: the trial's job.
        trial: the trial.
        reason: of the failure, for people.
        history: evaluations made; where empty, the evaluations of an earlier result.
        seconds: time spent, by kind of work.
    """
    now = time.time()
    spent = dict(seconds or {})
    # A failure past a rung: early stopping has used the evaluation at the rung, so the evaluation stays on record.
    earlier = read_result(job, trial.number)
    if not history and earlier is not None:
        history = earlier.history
    result = TrialResult(
        number=trial.number,
        status="failed",
        reason=reason,
        params=job.params_of(trial),
        history=list(history),
        configuration=configuration_of(job, trial),
        seconds=spent,
        started=now - sum(spent.values()),
        ended=now,
    )
    job.trial_folder(trial.number).join("result.json").write_text(result.to_json())
    return result


def configuration_of(job: TrialJob, trial: TrialTask) -> dict[str, Any]:
    """All that a trial was run with, for its result and its checkpoint."""
    return {
        "setting": trial.setting.model_dump(mode="json"),
        # Addresses inside the storage are written relative to it: the storage may move.
        "job": job.model_dump(mode="json", context=kept_in(job.workload.storage_location)),
        "recipe": job.workload.load().recipe.model_dump(mode="json"),
    }


def describe(error: BaseException) -> str:
    """An error's type and text on one line.

    >>> describe(ValueError("too few\\n  samples"))
    'ValueError: too few samples'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def forget_state(job: TrialJob, number: int) -> None:
    """Delete the saved state of a trial.

    Args:
        job: the trial's job.
        number: the trial's number.
    """
    state_file(job, number).delete()


def state_file(job: TrialJob, number: int) -> Location:
    """The file of a trial's saved state, see :class:`altermoma_ray.engine.trials.saved_state.SavedState`."""
    return job.trial_folder(number).join("halfway.safetensors")
