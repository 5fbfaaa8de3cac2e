"""The classes of nuScenes detections."""

CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
"""The nuScenes detection classes, in the order of the published BEVFusion heads."""
