"""3D multi-object tracking by detection: a detection task, whose detections a tracker follows over each scene."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from altermoma_ray.data.batch import Batch, Detections
from altermoma_ray.models.configurations.tracker import TrackerConfig
from altermoma_ray.tasks.detection.bev_detection import BevDetection
from altermoma_ray.tasks.detection.metrics import RESULTS
from altermoma_ray.tasks.tracking.metrics import METRICS

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.source import NuScenes


class TrackingTask:
    """The tracking task of a model that detects.

    A model learns as a detector does; only the evaluation differs, which follows the detections of each scene in order
    of time. A tracker has no weights.

    >>> TrackingTask(DetectionTask(model.config.head), TrackerConfig()).metrics[0].title  # doctest: +SKIP
    'AMOTA'
    """

    metrics = METRICS

    def __init__(self, detection: BevDetection, tracker: TrackerConfig) -> None:
        """Set the task up.

        Args:
            detection: the task of the model's head.
            tracker: figures of the tracker.
        """
        self.detection, self.tracker = detection, tracker

    @property
    def map_extent(self) -> tuple[float, float, float, float]:
        """Least and greatest x, then least and greatest y of the BEV map (m, lidar frame)."""
        return self.detection.map_extent

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses of the detection task, [N] each."""
        return self.detection.loss(outputs, batch)

    def decode(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Detections]:
        """The detections by sample token, on the CPU.

        Detections and no tracks: a worker decodes single samples, whose neighbours in time may lie on other workers.
        """
        return self.detection.decode(outputs, batch)

    def evaluate(self, predictions: Mapping[str, Detections], data: NuScenes, rows: Sequence[int]) -> dict[str, float]:
        """``amota``, ``amotp``, ``mota``, ``recall``, ``switches`` and ``amota/<class>`` by the official evaluation.

        Args:
            predictions: results of :meth:`decode` by sample token, one for each of ``rows``.
            data: the data set with the samples' descriptions.
            rows: the samples to evaluate on; the samples of a scene form its sequence.
        """
        # Imported here: the metric brings in pandas, scikit-learn and motmetrics, which other tasks do without.
        from altermoma_ray.tasks.metrics.nuscenes_tracking import evaluate

        return evaluate(predictions, data.index(), rows, self.tracker)

    def result_files(
        self, predictions: Mapping[str, Detections], data: NuScenes, rows: Sequence[int]
    ) -> dict[str, str]:
        """``results_nusc.json``, a file of tracks for the official evaluation; arguments of :meth:`evaluate`."""
        from altermoma_ray.tasks.metrics.nuscenes_tracking import submission

        return {RESULTS: json.dumps(submission(predictions, data.index(), rows, self.tracker, data.sensors))}

    def occupied(self, batch: Batch) -> Tensor:
        """The cells of the BEV map covered by an object, bool [N, X, Y]."""
        return self.detection.occupied(batch)
