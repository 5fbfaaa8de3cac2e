"""From storage into MLflow, when a search has ended: all that a tracking server missed, each trial once."""

from __future__ import annotations

import json

from altermoma_ray.console import console
from altermoma_ray.engine.search.driver import sole_driver
from altermoma_ray.engine.search.logbook import Logbook, OnlyInStorage
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.resuming import latest_name
from altermoma_ray.engine.search.run import reference_file
from altermoma_ray.engine.trials.trial import has_ended
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult

REPORT_FOLDER = "comparison"
"""Below a comparison's folder: its tables and pictures."""


def stored_plan(storage: Location, name: str | None) -> SearchPlan:
    """The plan of a search or comparison in storage, of the latest one by default.

    Raises:
        UserError: there is no such search.
    """
    names = [folder.name for folder in storage.join("searches").children() if folder.join("search.json").exists()]
    if not names:
        raise UserError(f"no search in {storage}; give --storage the folder that the search used")
    if name is None:
        name = latest_name(storage, names)
    if name not in names:
        raise UserError(f"no search {name!r} in {storage}; choose one of: {', '.join(names)}")
    return SearchPlan.load(storage, name)


def stored_reference(plan: SearchPlan) -> dict[str, float] | None:
    """Metrics of the unpruned model; None when they were not measured yet, or the data set is out of reach."""
    try:
        file = reference_file(plan)
        return json.loads(file.read_bytes()) if file.exists() else None
    except UserError as error:  # the file is named by what the data set holds
        console.print(f"  no metrics of the unpruned model: {error}")
        return None


def sync(plan: SearchPlan, tracker: Tracker) -> int:
    """Log what MLflow lacks of a search; the search's run ends as finished, or as stopped when there is more to run.

    Returns:
        How many trials were logged.

    Raises:
        UserError: the search runs still, in another process of this machine.
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

    Raises:
        OnlyInStorage: MLflow did not take them.
    """
    files = {file.name: file.read_bytes() for file in plan.folder.join(REPORT_FOLDER).children()}
    try:
        if files:
            tracker.log_files(run_id, files)
    except TrackingError as error:
        raise OnlyInStorage(plan, tracker, 0, error) from error


def _is_whole(plan: SearchPlan, results: list[TrialResult]) -> bool:
    """Whether nothing is left to run: what the search would propose has ended, promotions included."""
    if not results:
        return False
    known, proposals = {result.number: result for result in results}, plan.proposer()
    for result in results:
        proposals.complete(result)
    while (task := proposals.next()) is not None:
        if task.number not in known or not has_ended(known[task.number], task.until):
            return False
    return proposals.exhausted
