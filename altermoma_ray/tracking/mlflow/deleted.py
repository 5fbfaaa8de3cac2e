"""Deletions in MLflow, which hides deleted experiments and runs and keeps their names taken until ``gc``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from altermoma_ray.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Experiment

    from altermoma_ray.tracking.mlflow.store import Store


def check_active(store: Store, experiment: Experiment) -> None:
    """Find out whether an experiment takes runs.

    Raises:
        UserError: the experiment was deleted; the message tells the way to restore it.
    """
    if experiment.lifecycle_stage != "deleted":
        return
    # A server's own files and database are out of a client's reach, and so is gc.
    number = experiment.experiment_id
    remove = "have it removed for good by mlflow gc on the server"
    if not store.uri.startswith("http"):
        places = f"--tracking-uri {_shown(store)} --backend-store-uri {_shown(store)}"  # gc wants both
        remove = f"remove it for good: mlflow gc {places} --experiment-ids {number}"
    raise UserError(
        f"experiment {experiment.name!r} was deleted in {store.name}; restore it: MLFLOW_TRACKING_URI={_shown(store)} "
        f"mlflow experiments restore --experiment-id {number}, or {remove}"
    )


def check_not_deleted(store: Store, prefix: str, tag: str, name: str | None) -> None:
    """Find out whether a missing search was deleted, alone or with its experiment.

    Args:
        store: the store without the search.
        prefix: how the names of our experiments begin.
        tag: of a search's run, holds the search's name.
        name: of the search; None stands for any.

    Raises:
        UserError: the search was deleted; the message tells the way to restore it.
    """
    from mlflow.entities import ViewType

    # Also from living experiments: a search's run can be deleted alone, and hides then without its experiment.
    experiments = store.client.search_experiments(ViewType.ALL, filter_string=f"name LIKE '{prefix}%'")
    known = {experiment.experiment_id: experiment for experiment in experiments}
    runs = store.client.search_runs(list(known), f"tags.`{tag}` != ''", ViewType.DELETED_ONLY) if known else []
    for run in runs:
        search, run_id = run.data.tags[tag], run.info.run_id
        if name not in (None, search):
            continue
        # The experiment first: its restoration brings all of its runs back, whereas a run restored alone stays in a
        # hidden experiment.
        check_active(store, known[run.info.experiment_id])
        raise UserError(
            f"search {search!r} was deleted in {store.name}; restore it: MLFLOW_TRACKING_URI={_shown(store)} "
            f"mlflow runs restore --run-id {run_id}, or log it again out of storage: "
            f"python -m altermoma_ray.leaderboard {search} --sync"
        )


def _shown(store: Store) -> str:
    return shlex.quote(store.name)
