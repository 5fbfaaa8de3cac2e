"""From storage into MLflow after the end of a search: everything missed by a tracking server, each trial once."""

from __future__ import annotations

import json

from altermoma_ray.console import console
from altermoma_ray.engine.search.costs import unpruned_costs
from altermoma_ray.engine.search.driver import sole_driver
from altermoma_ray.engine.search.logbook import Logbook, OnlyInStorage
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.resuming import latest_name
from altermoma_ray.engine.search.run import reference_file
from altermoma_ray.engine.trials.results import has_ended
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult

REPORT_FOLDER = "comparison"
"""Name of the folder with a comparison's tables and pictures, below the comparison's own folder."""


def stored_plan(storage: Location, name: str | None) -> SearchPlan:
    """The plan of a search or comparison in storage::

        stored_plan(Location.parse("s3://bucket/storage"), "nusc-1")

    Args:
        storage: the storage of the searches.
        name: name of the search; None takes the latest one.

    Raises:
        UserError: no search has the name, or the storage holds none.
    """
    # A search which died at its beginning may have left a folder without a plan.
    names = [folder.name for folder in storage.join("searches").children() if folder.join("search.json").exists()]
    if not names:
        raise UserError(f"no search in {storage}; give --storage the folder that the search used")
    if name is None:
        name = latest_name(storage, names)
    if name not in names:
        raise UserError(f"no search {name!r} in {storage}; choose one of: {', '.join(names)}")
    return SearchPlan.load(storage, name)


def stored_reference(plan: SearchPlan) -> dict[str, float] | None:
    """Metrics of the unpruned model; None where they are not measured yet, or the data set is out of reach."""
    try:
        file = reference_file(plan)
        return json.loads(file.read_bytes()) | unpruned_costs(plan) if file.exists() else None
    except UserError as error:
        # The file is named by the fingerprint of the data set, which may be on another machine.
        console.print(f"  no metrics of the unpruned model: {error}")
        return None


def sync(plan: SearchPlan, tracker: Tracker) -> int:
    """Log the parts of a search missing in MLflow.

    The search's run in MLflow ends as finished, or as stopped where trials are left to run.

    Returns:
        The number of logged trials.

    Raises:
        UserError: the search still runs in another process of this machine.
        OnlyInStorage: MLflow did not take everything.
    """
    with sole_driver(plan.folder):
        results = plan.results()
        with Logbook(plan, tracker, resume=True) as logbook:
            logged = logbook.close(results, stored_reference(plan), whole=_is_whole(plan, results))
        log_report(plan, tracker, logbook.run_id)
    return logged


def log_report(plan: SearchPlan, tracker: Tracker, run_id: str) -> None:
    """Log a comparison's tables and pictures; a search has none.

    Args:
        plan: the plan of the comparison.
        tracker: MLflow's side of the comparison.
        run_id: identifier of the comparison's run in MLflow.

    Raises:
        OnlyInStorage: MLflow did not take the files.
    """
    # Read before MLflow is asked: an error of storage is another one, and no reason to sync again.
    files = {file.name: file.read_bytes() for file in plan.folder.join(REPORT_FOLDER).children()}
    try:
        if files:
            tracker.log_files(run_id, files)
    except TrackingError as error:
        raise OnlyInStorage(plan, tracker, 0, error) from error


def _is_whole(plan: SearchPlan, results: list[TrialResult]) -> bool:
    """Whether nothing is left to run: all trials proposed by the search have ended, promotions included."""
    if not results:
        return False
    # Counting the results would not do: any of the trials at a rung may still be promoted. The proposals of the search
    # are replayed on its results instead.
    known, proposals = {result.number: result for result in results}, plan.proposer()
    for result in results:
        proposals.complete(result)
    while (task := proposals.next()) is not None:
        if task.number not in known or not has_ended(known[task.number], task.until):
            return False
    return proposals.exhausted
