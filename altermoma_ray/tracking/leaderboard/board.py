"""The leaderboard: a search's trials as rows, best first."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from altermoma_ray.tracking.objective import metric_of
from altermoma_ray.tracking.result import Status

if TYPE_CHECKING:
    from mlflow.entities import Run

TRIAL_TAG = "altermoma.trial"
STATUS_TAG = "altermoma.status"
CHAMPION_TAG = "altermoma.champion"
"""On a search's run: its champion's run id. On the champion's run: the version that it is registered as."""
RULE_TAG = "altermoma.champion_rule"
"""On a search's run: how its champion was chosen, in words."""


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


@dataclass(frozen=True)
class Champion:
    """The trial whose model is registered."""

    trial: int
    run_id: str
    version: str
    """Of the registered model, such as ``version 1``."""
    rule: str
    """How the trial was chosen, in words."""


def champion_of(search: Run, trials: Sequence[Run]) -> Champion | None:
    """The registered champion of a search; None where it has none, or its run was deleted."""
    run_id = search.data.tags.get(CHAMPION_TAG, "")
    tags = {str(run.info.run_id): run.data.tags for run in trials}.get(run_id)
    if tags is None:
        return None
    return Champion(int(tags[TRIAL_TAG]), run_id, tags.get(CHAMPION_TAG, ""), search.data.tags.get(RULE_TAG, ""))


def metric_key(objective: str) -> str:
    """The MLflow metric that an objective (a :class:`Row` field or a metric's own name) stands for.

    >>> [metric_key(name) for name in ("map", "ap/car", "sparsity", "sparsity_camera")]
    ['map', 'ap/car', 'sparsity/total', 'sparsity/camera']
    """
    if objective == "sparsity":
        return "sparsity/total"
    return objective.replace("_", "/", 1) if objective.startswith("sparsity_") else objective


def rank_runs(runs: Sequence[Run], *, objective: str, reference: Mapping[str, float]) -> list[Row]:
    """Order trial runs, the best objective first, then by number: finished ones, those stopped early, failed ones.

    A stopped trial's last evaluation was an intermediate one, which compares with no final one. Runs without a finite
    objective come last.

    Args:
        runs: child runs that were logged completely.
        objective: the metric that was optimised, see :func:`metric_key`.
        reference: the unpruned model's metrics.
    """
    key, metric = metric_key(objective), metric_of(objective)

    def order(run: Run) -> tuple[bool, bool, float, int]:
        value = None if _failed(run) else finite(run.data.metrics, key)
        stopped = run.data.tags[STATUS_TAG] != "finished"
        return value is None, stopped, 0.0 if value is None else -metric.gain(value), int(run.data.tags[TRIAL_TAG])

    unpruned = finite(reference, "map")
    return [_row(rank, run, unpruned) for rank, run in enumerate(sorted(runs, key=order), start=1)]


def _row(rank: int, run: Run, unpruned: float | None) -> Row:
    # A failed trial may have logged evaluations before it failed: they are no result.
    metrics = {} if _failed(run) else run.data.metrics
    score, left = finite(metrics, "map"), finite(metrics, "params_left")
    return Row(
        rank=rank,
        trial=int(run.data.tags[TRIAL_TAG]),
        run_id=run.info.run_id,
        status=cast(Status, run.data.tags[STATUS_TAG]),
        map=score,
        nds=finite(metrics, "nds"),
        sparsity=finite(metrics, "sparsity/total"),
        sparsity_camera=finite(metrics, "sparsity/camera"),
        sparsity_lidar=finite(metrics, "sparsity/lidar"),
        sparsity_fusion=finite(metrics, "sparsity/fusion"),
        params_left=None if left is None else int(left),
        delta_map=None if score is None or unpruned is None else score - unpruned,
    )


def _failed(run: Run) -> bool:
    return bool(run.data.tags[STATUS_TAG] == "failed")


def finite(metrics: Mapping[str, float], key: str) -> float | None:
    """A run's metric; None where it has none or not a finite one: MLflow keeps ±inf as the greatest number there is."""
    value = metrics.get(key, math.nan)
    return value if abs(value) < sys.float_info.max else None
