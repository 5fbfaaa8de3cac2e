"""Reports in MLflow: a run in the model's experiment with a page as its artifact, or part of a champion's run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from altermoma_ray.tracking.mlflow.artifacts import write_files
from altermoma_ray.tracking.mlflow.names import experiment_name
from altermoma_ray.tracking.mlflow.tracker import Tracker

REPORT_TAG = "altermoma.report"
CERTIFICATE = "certificate"
"""Folder of a certificate among the artifacts of a champion's run."""


class ReportTracker(Tracker):
    """Logs reports beside the searches of the same model."""

    def log_report(
        self,
        name: str,
        *,
        dataset: str,
        model: str,
        files: Mapping[str, bytes],
        params: Mapping[str, object],
        metrics: Mapping[str, float],
    ) -> str:
        """Log a report as a run, in place of an older one of the same name; returns the run id.

        Args:
            name: of the run.
            dataset: names, with ``model``, the experiment.
            model: see ``dataset``.
            files: artifacts by name.
            params: the report's settings.
            metrics: its main figures.

        Raises:
            TrackingError: the store did not take the report.
        """
        from mlflow.entities import Metric

        # MLflow counts milliseconds since the epoch.
        now = int(1000 * time.time())
        with tempfile.TemporaryDirectory() as folder, self._store.reported():
            experiment = self._experiment(experiment_name(dataset, model))
            # The tag is set with the run, so the next call finds and deletes a report broken off half-way, too.
            for old in self._runs([experiment], f"tags.`{REPORT_TAG}` = '{name}'"):
                self._client.delete_run(old.info.run_id)
            run = self._client.create_run(experiment, tags={REPORT_TAG: name}, run_name=name)
            run_id = str(run.info.run_id)
            self._log(run_id, params=params, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])
            write_files(Path(folder), files)
            self._client.log_artifacts(run_id, folder)
            # Last: a run shown as finished holds its page.
            self._client.set_terminated(run_id)
        return run_id

    def check_run(self, run_id: str) -> None:
        """Find out whether files may be added to a run where its files lie.

        Raises:
            StrayFiles: the files belong to another storage, or to a moved one.
        """
        with self._store.reported():
            experiment = self._client.get_experiment(self._client.get_run(run_id).info.experiment_id)
        self._store.check_place(experiment)

    def log_certificate(self, run_id: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> None:
        """Log a champion's certificate to the champion's run, in place of an older one.

        Args:
            run_id: of the champion.
            files: artifacts by name, for the run's folder :data:`CERTIFICATE`.
            metrics: the main figures.

        Raises:
            TrackingError: the store did not take the certificate.
        """
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        with tempfile.TemporaryDirectory() as folder, self._store.reported():
            write_files(Path(folder), files)
            self._client.log_artifacts(run_id, folder, CERTIFICATE)
            # The figures last: a run that shows them holds the page.
            self._log(run_id, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])
