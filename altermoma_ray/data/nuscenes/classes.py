"""The classes that nuScenes detections have."""

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
