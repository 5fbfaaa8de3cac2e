"""The metrics of 3D object detection on nuScenes (Caesar et al., CVPR 2020)."""

from __future__ import annotations

from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.metrics import Metric

TRUE_POSITIVE_ERRORS = {
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}
"""The devkit's names of the mean true-positive errors, and the usual ones."""
METRICS = (
    Metric("map", "mAP"),
    Metric("nds", "NDS"),
    Metric("map_present", "mAP of present classes", is_column=False),
    *(Metric(f"ap/{name}", f"AP of {name}", is_column=False) for name in CLASSES),
    *(Metric(f"tp/{name}", name, "minimize", is_column=False) for name in TRUE_POSITIVE_ERRORS.values()),
)
"""mAP and NDS, the mean AP of the classes present in the ground truth, the AP of each class, the true-positive errors.
"""
RESULTS = "results_nusc.json"
"""Name of a results file, of detections and of tracks, as the devkit's own examples have it."""
