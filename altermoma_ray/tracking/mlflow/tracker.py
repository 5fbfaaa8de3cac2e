"""A pruning search in MLflow.

    experiment   altermoma-<dataset>-<model>
    parent run   the search: its name, parameters, the unpruned model's metrics, the Pareto picture
    child run    a trial: parameters, metrics by step, sparsities, files, the pruned model
    registry     altermoma-<dataset>-<model>, each search's best as a version, the newest with alias ``champion``

Every call may be repeated: nothing is logged or registered twice.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from altermoma_ray.errors import UserError
from altermoma_ray.metrics import Figures
from altermoma_ray.storage import Location
from altermoma_ray.tracking.leaderboard.board import (
    CHAMPION_TAG,
    RULE_TAG,
    STATUS_TAG,
    TRIAL_TAG,
)
from altermoma_ray.tracking.mlflow import artifacts as files
from altermoma_ray.tracking.mlflow.deleted import check_active
from altermoma_ray.tracking.mlflow.figures import LONGEST_VALUE, RUN_STATUS, as_text, is_complete, trial_metrics
from altermoma_ray.tracking.mlflow.names import check_name, experiment_name
from altermoma_ray.tracking.mlflow.reader import (
    FIGURES_TAG,
    OBJECTIVE_TAG,
    PARENT_TAG,
    REFERENCE_PREFIX,
    SEARCH_TAG,
    SearchReader,
    reference_of,
)
from altermoma_ray.tracking.mlflow.view import saved_view
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import Status, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Metric as Logged
    from mlflow.entities import Run
    from torch import nn

CHAMPION = "champion"
_REASON_TAG = "altermoma.reason"
_BATCH_METRICS, _BATCH_PARAMS = 900, 100  # MLflow takes 1000 in all in one request, 100 of them parameters


class Tracker(SearchReader):
    """Logs searches to MLflow and reads them back.

    >>> tracker = Tracker.open(None, Location.parse("storage"))  # doctest: +SKIP
    >>> parent = tracker.start_search(  # doctest: +SKIP
    ...     "first", dataset="nusc", model="toy", figures=figures, params={}
    ... )
    >>> run_id = tracker.log_trial(parent, result, {"masks.safetensors": location}, model)  # doctest: +SKIP
    >>> tracker.register_champion(parent, run_id)  # doctest: +SKIP
    1
    >>> tracker.finish_search(parent)  # doctest: +SKIP
    """

    def check_free(self, name: str) -> None:
        """Find out whether a new search may have this name.

        Raises:
            UserError: the name is taken or has odd characters.
        """
        check_name(name)
        if not self.is_free(name):
            raise UserError(f"search {name!r} is already in {self._store.name}; --resume it or choose another --name")

    def check_open(self, dataset: str, model: str) -> None:
        """Find out whether MLflow takes runs of a model on a data set.

        Raises:
            UserError: their experiment was deleted.
        """
        with self._store.reported():
            experiment = self._client.get_experiment_by_name(experiment_name(dataset, model))
        if experiment is not None:
            check_active(self._store, experiment)

    def is_free(self, name: str) -> bool:
        """Whether no search has this name.

        Raises:
            TrackingError: the store does not tell.
        """
        with self._store.reported():
            return self._find(name) is None

    def start_search(
        self,
        name: str,
        *,
        dataset: str,
        model: str,
        figures: Figures,
        objective: Objective | None = None,
        params: Mapping[str, object],
        resume: bool = False,
    ) -> str:
        """Make the search's parent run, or find the earlier one; returns its run id.

        Args:
            name: unique in the store.
            dataset: names, with ``model``, the experiment and the registered model.
            model: see ``dataset``.
            figures: the metrics of its trials.
            objective: its optimised metrics, the first of ``figures`` by default; the first one orders the
                leaderboard.
            params: the search's options; on ``resume`` the options of its first start stay.
            resume: go on with the search of this name, or start a new one where there is none.

        Raises:
            UserError: the name is taken (and not ``resume``), belongs to another model, or has odd characters.
        """
        if not resume:
            self.check_free(name)
        objective = objective or Objective(figures.metrics[:1])
        experiment = experiment_name(dataset, model)
        with self._store.reported():
            # Made and found again: two drivers starting in the same instant both make a run, and then both see two.
            # A request repeated after a lost answer makes two runs, as well.
            if not self._named(name):
                tags = {SEARCH_TAG: name, OBJECTIVE_TAG: ",".join(objective.names), FIGURES_TAG: figures.to_json()}
                self._client.create_run(self._experiment(experiment), tags=tags, run_name=name)
            found = self._only(self._named(name))
            if (other := self._client.get_experiment(found.info.experiment_id)).name != experiment:
                raise UserError(f"search {name!r} belongs to {other.name}, not to {experiment}; choose another --name")
            self._store.check_place(other)
            # A resumed search has ended once; the page would show a search at work as finished or killed.
            if found.info.status != "RUNNING":
                self._client.update_run(found.info.run_id, status="RUNNING")
            # MLflow refuses a second value for a parameter, so a resumed search keeps the first ones. Where there are
            # none, the driver died between the two requests.
            if not found.data.params:
                self._log(found.info.run_id, params=params)
            parent = str(found.info.run_id)
            if FIGURES_TAG not in found.data.tags:  # the run of an earlier release
                self._client.set_tag(parent, FIGURES_TAG, figures.to_json())
            view = saved_view(name, parent, objective.metrics, figures)
            # Written at each start: the view then also exists for searches of releases without one.
            self._client.set_experiment_tag(found.info.experiment_id, *view)
            return parent

    def log_reference(self, parent: str, metrics: Mapping[str, float]) -> None:
        """Log the unpruned model's metrics to the parent run."""
        from mlflow.entities import Metric as Logged

        new = {f"{REFERENCE_PREFIX}{key}": value for key, value in metrics.items()}
        with self._store.reported():
            logged = self._client.get_run(parent).data.metrics
            now = int(1000 * time.time())
            # A resuming driver has the same figures again; equal ones would only lengthen the history.
            changed = [Logged(key, value, now, 0) for key, value in new.items() if logged.get(key) != value]
            self._log(parent, metrics=changed)

    def log_measured(self, run_id: str, latency: Mapping[str, float]) -> None:
        """Log a trial's latency as measured: ``measured/latency_ms``, ``measured/unpruned_ms``, ``measured/ratio``.

        Args:
            run_id: the trial's run id.
            latency: figures by their names.
        """
        from mlflow.entities import Metric as Logged

        with self._store.reported():
            now = int(1000 * time.time())
            self._log(run_id, metrics=[Logged(f"measured/{key}", value, now, 0) for key, value in latency.items()])

    def log_trial(
        self,
        parent: str,
        result: TrialResult,
        artifacts: Mapping[str, Location | bytes],
        model: Callable[[], nn.Module] | None = None,
    ) -> str:
        """Log a trial as a child run; returns its run id.

        A trial that was logged as it ended is left as it is; what was left half-written, or told of the trial before it
        was promoted or tried again, is deleted and logged afresh.

        Args:
            parent: the search's run id.
            result: the trial's record.
            artifacts: files to keep with the run, by name.
            model: builds the pruned model for logging; None where there is none.

        Raises:
            TrackingError: the store did not take the trial; call again later.
        """
        with self._store.reported():
            search = self._client.get_run(parent)
            # Asked in MLflow and not remembered: an earlier driver, or an earlier attempt, may have logged the trial.
            for run in self._trials(search, result.number):
                if is_complete(run, result.status):
                    return str(run.info.run_id)
                self._client.delete_run(run.info.run_id)
            tags = {PARENT_TAG: parent, TRIAL_TAG: str(result.number), STATUS_TAG: result.status}
            if result.reason is not None:
                tags[_REASON_TAG] = result.reason[:LONGEST_VALUE]
            run = self._client.create_run(
                search.info.experiment_id, int(1000 * result.started), tags, f"trial-{result.number:03d}"
            )
            run_id = str(run.info.run_id)
        # Outside of reported(): an error while reading the trial's own files is no trouble of the store.
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files.write_result(folder, result)
            files.write_files(folder, artifacts)
            if model is not None:
                files.write_model(folder, model(), run_id)
            with self._store.reported():
                # The order matters: the end status comes last, and stands for a complete run wherever runs are read.
                self._log(run_id, metrics=trial_metrics(result), params=result.params)
                self._client.log_artifacts(run_id, str(folder))
                self._client.set_terminated(run_id, RUN_STATUS[result.status], int(1000 * result.ended))
        return run_id

    def sweep(self, parent: str, ended: Mapping[int, Status]) -> dict[int, str]:
        """Leave one complete run of each trial and delete all others; returns the ids of these runs, by trial.

        A server may die between making a run and answering; the repeated request leaves a second, unfinished run.

        Args:
            parent: the search's run id.
            ended: the status of each trial; a run with another status is not complete.
        """
        left: dict[int, str] = {}
        with self._store.reported():
            for run in self._trials(self._client.get_run(parent)):
                number = int(run.data.tags[TRIAL_TAG])
                if number not in left and is_complete(run, ended.get(number)):
                    left[number] = str(run.info.run_id)
                else:
                    self._client.delete_run(run.info.run_id)
        return left

    def log_files(self, run_id: str, contents: Mapping[str, bytes]) -> None:
        """Log files to a run, in place of older ones of the same names."""
        with tempfile.TemporaryDirectory() as folder, self._store.reported():
            files.write_files(Path(folder), contents)
            self._client.log_artifacts(run_id, folder)

    def register_champion(self, parent: str, run_id: str, *, rule: str | None = None) -> int:
        """Make a trial's model the newest version of ``altermoma-<dataset>-<model>`` and its champion.

        Args:
            parent: the search's run id.
            run_id: the trial's.
            rule: the reason for the choice, in words; kept with the search's run and as the version's description.
        """
        from mlflow.exceptions import MlflowException

        with self._store.reported():
            experiment_id = self._client.get_run(parent).info.experiment_id
            name = self._client.get_experiment(experiment_id).name
            # Tried and not asked for first: searches of one model may register their champions at the same time.
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            of_run = f"name='{name}' and run_id='{run_id}'"
            if not self._client.search_model_versions(of_run):
                source = f"runs:/{run_id}/{files.MODEL_FOLDER}"
                # The files are there already; MLflow would wait up to five minutes for the version to be ready.
                self._client.create_model_version(name, source, run_id, description=rule, await_creation_for=0)
            # A request repeated after a lost answer makes a second version. The lowest number stays, on which all
            # drivers agree; as text, "10" would sort before "9".
            version, *twins = sorted(int(found.version) for found in self._client.search_model_versions(of_run))
            for twin in twins:
                self._client.delete_model_version(name, str(twin))
            self._client.set_registered_model_alias(name, CHAMPION, str(version))
            condition = f"tags.`{PARENT_TAG}` = '{parent}' and tags.`{CHAMPION_TAG}` != ''"
            # Before the new tag: should the driver die in between, MLflow's page never shows two champions.
            for former in self._runs([experiment_id], condition):
                self._client.delete_tag(former.info.run_id, CHAMPION_TAG)
            self._client.set_tag(run_id, CHAMPION_TAG, f"version {version}")
            # The parent's tag last: readers find the champion by it, and then its run is already marked.
            self._client.set_tag(parent, CHAMPION_TAG, run_id)
            if rule:
                self._client.set_tag(parent, RULE_TAG, rule)
        return version

    def finish_search(self, parent: str, status: Status = "finished") -> None:
        """Draw the Pareto picture and end the parent run; a ``stopped`` search (``--resume`` goes on) is KILLED."""
        self.draw_pareto(parent)
        with self._store.reported():
            self._client.set_terminated(parent, "KILLED" if status == "stopped" else RUN_STATUS[status])

    def draw_pareto(self, parent: str) -> None:
        """Save ``pareto.png`` (see :meth:`_axes`; the champion marked) to the parent run, in place of an older one.

        Raises:
            StrayFiles: the run's files lie where they must not be added to.
        """
        # Imported here: the pictures bring in matplotlib, which readers of a leaderboard do without.
        from altermoma_ray.tracking.pictures import search_picture

        rows = self._rows(parent)
        with self._store.reported():
            run = self._client.get_run(parent)
            self._store.check_place(self._client.get_experiment(run.info.experiment_id))
            champion, reference = run.data.tags.get(CHAMPION_TAG), reference_of(run)
            picture = search_picture(run.info.run_name, rows, champion, reference, self._axes(run))
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "pareto.png")
                file.write_bytes(picture)
                self._client.log_artifact(parent, str(file))

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # Without a place of its own the experiment would keep its files in MLflow's default, the working folder.
            root = self._store.artifacts
            try:
                return str(self._client.create_experiment(name, None if root is None else root.join(name).plain))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # made by another search just now
        check_active(self._store, experiment)
        self._store.check_place(experiment)
        return str(experiment.experiment_id)

    def _only(self, twins: Sequence[Run]) -> Run:
        """The run of a search, its trials' parent, out of several made by repeated requests; deletes the others."""
        if len(twins) == 1:
            return twins[0]
        # A driver may have logged trials to one of them already. Twins are removed only while they hold none.
        found = next((run for run in twins if self._trials(run)), twins[0])
        for run in twins:
            if run is not found and run.info.experiment_id == found.info.experiment_id and not self._trials(run):
                self._client.delete_run(run.info.run_id)
        return found

    def _log(self, run_id: str, *, metrics: Sequence[Logged] = (), params: Mapping[str, object] | None = None) -> None:
        """Log in as few requests as MLflow allows."""
        from mlflow.entities import Param

        named = [Param(key, as_text(value)) for key, value in (params or {}).items()]
        # One log_batch instead of a request for each figure: a trial has hundreds, most of them for single layers.
        while metrics or named:
            self._client.log_batch(run_id, metrics=metrics[:_BATCH_METRICS], params=named[:_BATCH_PARAMS])
            metrics, named = metrics[_BATCH_METRICS:], named[_BATCH_PARAMS:]
