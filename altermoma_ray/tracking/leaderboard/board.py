"""The leaderboard: a search's trials as rows, best first."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from altermoma_ray.metrics import SPARSITY, Figures, Metric
from altermoma_ray.tracking.result import Status

if TYPE_CHECKING:
    from mlflow.entities import Run

TRIAL_TAG = "altermoma.trial"
STATUS_TAG = "altermoma.status"
CHAMPION_TAG = "altermoma.champion"
"""On a search's run: its champion's run id. On the champion's run: its registered version."""
RULE_TAG = "altermoma.champion_rule"
"""On a search's run: how its champion was chosen, in words."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial; None stands for a missing figure (a failed trial has none)."""

    rank: int
    trial: int
    run_id: str
    status: Status
    metrics: Mapping[str, float | None]
    """Figures by the names of their metrics; the task's first metric comes first."""
    sparsity: Mapping[str, float | None]
    """Share of weights removed: ``total``, and one entry a parameter group."""
    params_left: int | None
    delta: float | None
    """The first metric's figure less the unpruned model's."""

    def cells(self) -> dict[str, str | int | float | None]:
        """The row as flat names and values, in the order of the leaderboard's columns.

        >>> row = Row(
        ...     rank=1, trial=3, run_id="f0", status="finished", metrics={"map": 0.5},
        ...     sparsity={"total": 0.9, "camera": 1.0}, params_left=7, delta=-0.1,
        ... )
        >>> list(row.cells())[4:]
        ['map', 'sparsity', 'sparsity_camera', 'params_left', 'delta_map']
        """
        # Names with an underscore: columns become fields of JSON and CSV, and "sparsity" alone is the total.
        groups = {f"sparsity_{name}": value for name, value in self.sparsity.items() if name != "total"}
        first = next(iter(self.metrics))
        return {
            "rank": self.rank,
            "trial": self.trial,
            "run_id": self.run_id,
            "status": self.status,
            **self.metrics,
            SPARSITY.name: self.sparsity["total"],
            **groups,
            "params_left": self.params_left,
            f"delta_{first}": self.delta,
        }


@dataclass(frozen=True)
class Champion:
    """The trial whose model is registered."""

    trial: int
    run_id: str
    version: str
    """Of the registered model, for example ``version 1``."""
    rule: str
    """How the trial was chosen, in words."""


def champion_of(search: Run, trials: Sequence[Run]) -> Champion | None:
    """The registered champion of a search; None where there is none, or its run was deleted."""
    run_id = search.data.tags.get(CHAMPION_TAG, "")
    # Looked up among the trials at hand: asked for by its number, a deleted run would still come.
    tags = {str(run.info.run_id): run.data.tags for run in trials}.get(run_id)
    if tags is None:
        return None
    return Champion(int(tags[TRIAL_TAG]), run_id, tags.get(CHAMPION_TAG, ""), search.data.tags.get(RULE_TAG, ""))


def metric_key(metric: Metric) -> str:
    """The name by which MLflow keeps a metric.

    >>> metric_key(SPARSITY), metric_key(Metric("ap/car", "AP of car"))
    ('sparsity/total', 'ap/car')
    """
    return "sparsity/total" if metric == SPARSITY else metric.name


def rank_runs(
    runs: Sequence[Run], *, objective: Sequence[Metric], figures: Figures, reference: Mapping[str, float]
) -> list[Row]:
    """Order trial runs, the best objective first, then by number: finished, stopped early, failed.

    A stopped trial's last evaluation was an intermediate one, which compares with no final one. Runs without a finite
    objective come last.

    Args:
        runs: completely logged child runs.
        objective: the optimised metrics; the first one orders the rows.
        figures: the metrics measured by the search.
        reference: the unpruned model's metrics.
    """
    metric = objective[0]
    key = metric_key(metric)

    def order(run: Run) -> tuple[bool, bool, float, int]:
        # A failed trial may have logged good evaluations before its failure.
        value = None if _failed(run) else finite(run.data.metrics, key)
        stopped = run.data.tags[STATUS_TAG] != "finished"
        # False sorts before True. 0.0 in place of a missing value: a None in the tuple could not be compared.
        return value is None, stopped, 0.0 if value is None else -metric.gain(value), int(run.data.tags[TRIAL_TAG])

    shown = columns_of(figures, objective)
    return [_row(rank, run, shown, figures.groups, reference) for rank, run in enumerate(sorted(runs, key=order), 1)]


def columns_of(figures: Figures, objective: Sequence[Metric]) -> list[Metric]:
    """The metrics beside the sparsity on a leaderboard: the task's columns, and the objective."""
    # An objective may be no column of the task (the AP of one class); the order of the task stays.
    return [metric for metric in dict.fromkeys((*figures.columns, *objective)) if metric != SPARSITY]


def column_names(figures: Figures, objective: Sequence[Metric]) -> list[str]:
    """The names of a leaderboard's columns, also of one without a row.

    >>> column_names(Figures(groups=("radar",)), [Metric("loss", "loss", "minimize")])[4:]
    ['loss', 'sparsity', 'sparsity_radar', 'params_left', 'delta_loss']
    """
    # An empty row, so the names cannot part from Row.cells.
    blank = Row(
        rank=0,
        trial=0,
        run_id="",
        status="finished",
        metrics=dict.fromkeys(metric.name for metric in columns_of(figures, objective)),
        sparsity=dict.fromkeys(("total", *figures.groups)),
        params_left=None,
        delta=None,
    )
    return list(blank.cells())


def _row(rank: int, run: Run, shown: Sequence[Metric], groups: Sequence[str], reference: Mapping[str, float]) -> Row:
    # A failed trial may have logged evaluations before its failure: they are no result.
    metrics = {} if _failed(run) else run.data.metrics
    found = {metric.name: finite(metrics, metric.name) for metric in shown}
    name = next(iter(found), "")
    score, unpruned, left = found.get(name), finite(reference, name), finite(metrics, "params_left")
    return Row(
        rank=rank,
        trial=int(run.data.tags[TRIAL_TAG]),
        run_id=run.info.run_id,
        status=cast(Status, run.data.tags[STATUS_TAG]),
        metrics=found,
        sparsity={group: finite(metrics, f"sparsity/{group}") for group in ("total", *groups)},
        params_left=None if left is None else int(left),
        delta=None if score is None or unpruned is None else score - unpruned,
    )


def _failed(run: Run) -> bool:
    return bool(run.data.tags[STATUS_TAG] == "failed")


def finite(metrics: Mapping[str, float], key: str) -> float | None:
    """A run's metric; None where there is none or not a finite one: MLflow keeps ±inf as the greatest float."""
    # NaN compares as False, so one comparison catches NaN, ±inf and MLflow's greatest float.
    value = metrics.get(key, math.nan)
    return value if abs(value) < sys.float_info.max else None
