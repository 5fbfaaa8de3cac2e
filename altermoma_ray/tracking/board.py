"""The leaderboard: a search's trials as rows, best first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from altermoma_ray.tracking.result import Status, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

TRIAL_TAG = "altermoma.trial"
STATUS_TAG = "altermoma.status"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial; None where it has no such figure (a failed trial has none)."""

    rank: int
    trial: int
    run_id: str
    status: Status
    map: float | None
    nds: float | None
    sparsity: float | None
    sparsity_camera: float | None
    sparsity_lidar: float | None
    sparsity_fusion: float | None
    params_left: int | None
    delta_map: float | None
    """mAP less the unpruned model's."""


def metric_key(objective: str) -> str:
    """The MLflow metric that an objective (a :class:`Row` field or a metric's own name) stands for.

    >>> [metric_key(name) for name in ("map", "ap/car", "sparsity", "sparsity_camera")]
    ['map', 'ap/car', 'sparsity/total', 'sparsity/camera']
    """
    if objective == "sparsity":
        return "sparsity/total"
    return objective.replace("_", "/", 1) if objective.startswith("sparsity_") else objective


def rank_runs(runs: Sequence[Run], *, objective: str, reference: Mapping[str, float]) -> list[Row]:
    """Order trial runs by falling objective, then by number: finished ones, then those stopped early, then failed ones.

    A stopped trial's last evaluation was an intermediate one, which compares with no final one.

    Args:
        runs: child runs that were logged completely.
        objective: what was maximised, see :func:`metric_key`.
        reference: the unpruned model's metrics.
    """
    key = metric_key(objective)

    def order(run: Run) -> tuple[bool, bool, float, int]:
        value = None if _failed(run) else _finite(run.data.metrics, key)
        stopped = run.data.tags[STATUS_TAG] != "finished"
        return value is None, stopped, -(value or 0.0), int(run.data.tags[TRIAL_TAG])

    unpruned = _finite(reference, "map")
    return [_row(rank, run, unpruned) for rank, run in enumerate(sorted(runs, key=order), start=1)]


def _row(rank: int, run: Run, unpruned: float | None) -> Row:
    # A failed trial may have logged evaluations before it failed: they are no result.
    metrics = {} if _failed(run) else run.data.metrics
    score, left = _finite(metrics, "map"), _finite(metrics, "params_left")
    return Row(
        rank=rank,
        trial=int(run.data.tags[TRIAL_TAG]),
        run_id=run.info.run_id,
        status=cast(Status, run.data.tags[STATUS_TAG]),
        map=score,
        nds=_finite(metrics, "nds"),
        sparsity=_finite(metrics, "sparsity/total"),
        sparsity_camera=_finite(metrics, "sparsity/camera"),
        sparsity_lidar=_finite(metrics, "sparsity/lidar"),
        sparsity_fusion=_finite(metrics, "sparsity/fusion"),
        params_left=None if left is None else int(left),
        delta_map=None if score is None or unpruned is None else score - unpruned,
    )


def _failed(run: Run) -> bool:
    return bool(run.data.tags[STATUS_TAG] == "failed")


def _finite(metrics: Mapping[str, float], key: str) -> float | None:
    value = metrics.get(key, math.nan)
    return value if math.isfinite(value) else None


def trial_metrics(result: TrialResult) -> list[Metric]:
    """Evaluations by step, the final one at the last step in place of that step's own, then what has no steps."""
    from mlflow.entities import Metric

    last = max((evaluation.step for evaluation in result.history), default=0)
    values = {(key, entry.step): value for entry in result.history for key, value in entry.metrics.items()}
    values |= {(key, last): value for key, value in result.metrics.items()}
    values |= {(f"sparsity/{group}", 0): value for group, value in result.sparsity.items()}
    values |= {(f"layer_sparsity/{layer}", 0): value for layer, value in result.layer_sparsity.items()}
    values |= {(f"seconds/{stage}", 0): value for stage, value in result.seconds.items()}
    counts = {"params_left": result.params_left, "params_total": result.params_total}
    values |= {(key, 0): count for key, count in counts.items() if count is not None}
    return [Metric(key, value, int(1000 * result.ended), step) for (key, step), value in values.items()]
