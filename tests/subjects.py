"""Subjects of searches: the project's own, and one of a task that it does not know."""

from __future__ import annotations

from altermoma_ray.metrics import Metric
from altermoma_ray.tasks.detection.metrics import METRICS
from altermoma_ray.tracking.subject import Subject

DETECTION = Subject(
    metrics=METRICS,
    groups=("camera", "lidar", "fusion"),
    modalities=("camera", "lidar"),
    titles={"lidar": "LiDAR"},
)
"""The detection task on a camera-LiDAR model, as a search of the project writes it to MLflow."""
DEPTH = Subject(
    metrics=(
        Metric("error", "error (m)", "minimize"),
        Metric("within", "share within 1 m"),
        Metric("error/near", "error below 10 m (m)", "minimize", is_column=False),
    ),
    groups=("radar", "thermal", "fusion"),
    modalities=("thermal", "radar"),
)
"""A foreign task, whose first metric is better when it is lower."""
