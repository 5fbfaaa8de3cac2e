"""The metrics of tracking on nuScenes (Caesar et al., CVPR 2020; Weng et al., IROS 2020)."""

from __future__ import annotations

from altermoma_ray.metrics import Metric

TRACKED = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
"""The classes of the tracking challenge: those of the ten detection classes that move."""
METRICS = (
    Metric("amota", "AMOTA"),
    Metric("amotp", "AMOTP (m)", "minimize"),
    Metric("mota", "MOTA"),
    Metric("recall", "recall"),
    Metric("switches", "identity switches", "minimize", is_column=False),
    *(Metric(f"amota/{name}", f"AMOTA of {name}", is_column=False) for name in TRACKED),
)
"""Average multi-object tracking accuracy and precision (a distance) over 40 recalls; at the threshold of the best
accuracy of each class this accuracy, the recall, and how often an object changes its identity; the AMOTA of each class.
"""
