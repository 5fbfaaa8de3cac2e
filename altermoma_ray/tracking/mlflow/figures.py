"""A trial in MLflow's terms: its figures, and whether its run is complete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from altermoma_ray.tracking.leaderboard.board import STATUS_TAG
from altermoma_ray.tracking.result import Status, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

RUN_STATUS: dict[Status, str] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
# A longer value makes MLflow refuse the whole request; recent releases take more.
LONGEST_VALUE = 5000  # characters of a parameter or tag


def as_text(value: object) -> str:
    """A parameter's value in MLflow's form.

    >>> as_text("snip"), as_text(0.9), as_text(None), as_text([1, 2])
    ('snip', '0.9', 'null', '[1, 2]')
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:LONGEST_VALUE]


def trial_metrics(result: TrialResult) -> list[Metric]:
    """Evaluations by step, the final one in place of the last step's own, then figures without a step."""
    from mlflow.entities import Metric

    last = max((evaluation.step for evaluation in result.history), default=0)
    # A key's latest value in MLflow is the one of the highest step, then of the latest time, then the greatest.
    # Were the last evaluation and the final one both logged at one step, the better-looking one would be shown.
    values = {(key, entry.step): value for entry in result.history for key, value in entry.metrics.items()}
    values |= {(key, last): value for key, value in result.metrics.items()}
    values |= {(f"sparsity/{group}", 0): value for group, value in result.sparsity.items()}
    values |= {(f"layer_sparsity/{layer}", 0): value for layer, value in result.layer_sparsity.items()}
    values |= {(f"seconds/{stage}", 0): value for stage, value in result.seconds.items()}
    counts = {"params_left": result.params_left, "params_total": result.params_total}
    values |= {(key, 0): count for key, count in counts.items() if count is not None}
    # One time for all: a request repeated after a lost answer then writes the same rows, which MLflow drops.
    return [Metric(key, value, int(1000 * result.ended), step) for (key, step), value in values.items()]


def is_complete(run: Run, ended: Status | None) -> bool:
    """Whether a trial's run was logged to its end, with the given status of the trial (None: any status)."""
    status = cast(Status, run.data.tags.get(STATUS_TAG))
    # The end status is set last: a run still RUNNING was interrupted. A run without the tag compares with None: False.
    return run.info.status == RUN_STATUS.get(status) and ended in (None, status)
