"""A search's leaderboard as a saved view of MLflow's page: its trials, best first, with the important columns.

MLflow keeps saved views as tags of the experiment. They are listed under *Views* above the table of runs, and have
an address of their own. Releases of MLflow without saved views ignore the tag.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from altermoma_ray.metrics import SPARSITY, Figures, Metric
from altermoma_ray.tracking.leaderboard.board import CHAMPION_TAG, STATUS_TAG, columns_of, metric_key

_VIEW_TAG = "mlflow.sharedViewState."
_PARAMS = ("criterion",)
_TAGS = (CHAMPION_TAG, STATUS_TAG)


def saved_view(name: str, parent: str, objective: Sequence[Metric], figures: Figures) -> tuple[str, str]:
    """Key and value of the experiment's tag for a search's view.

    Args:
        name: of the search.
        parent: its run id.
        objective: its optimised metrics; the first one orders the rows.
        figures: its measured metrics.
    """
    shown = (*objective, *columns_of(figures, objective), SPARSITY)
    # A metric of the objective is often a column of the task, too. Unlike a set, dict.fromkeys keeps the order.
    metrics = dict.fromkeys([*map(metric_key, shown), *(f"sparsity/{group}" for group in figures.groups)])
    # The page names columns as searches do; backticks take the slashes in names like sparsity/total.
    ranked = [f"metrics.`{metric}`" for metric in metrics]
    columns = [*(f"tags.`{tag}`" for tag in _TAGS), *(f"params.`{param}`" for param in _PARAMS), *ranked]
    state = {
        # The experiment holds other searches of the model, and the parents themselves.
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        # The page sorts by one column; the objective's first metric stands first.
        "orderByKey": ranked[0],
        "orderByAsc": objective[0].direction == "minimize",
        "selectedColumns": columns,
        "columnOrder": columns,
        # A heading takes about 7 pixels a letter; a narrower column would cut the name off.
        "columnWidths": {column: max(80, 7 * len(column.split("`")[1]) + 10) for column in columns},  # pixels
    }
    now = int(1000 * time.time())
    # JSON within JSON, as the page writes views of its own: the state is a text in the view's record.
    view = {"name": f"leaderboard {name}", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return f"{_VIEW_TAG}{name}", json.dumps(view)


def view_address(server: str, experiment_id: str, name: str) -> str:
    """Where a browser finds a search's view on an MLflow server.

    >>> view_address("http://node-1:5000/", "7", "first")
    'http://node-1:5000/#/experiments/7/runs?viewStateShareKey=first'

    Args:
        server: address of the server.
        experiment_id: the number of the search's experiment.
        name: of the search.
    """
    # The part behind '#' stays in the browser: the page alone reads the experiment and the view.
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={name}"
