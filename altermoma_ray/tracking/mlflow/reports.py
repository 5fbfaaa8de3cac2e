"""Reports in MLflow: one run in the model's experiment, with a page as its artifact."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from altermoma_ray.tracking.mlflow.names import experiment_name
from altermoma_ray.tracking.mlflow.tracker import Tracker

REPORT_TAG = "altermoma.report"


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
            for file, content in files.items():
                Path(folder, file).write_bytes(content)
            self._client.log_artifacts(run_id, folder)
            # Last: a run shown as finished holds its page.
            self._client.set_terminated(run_id)
        return run_id
