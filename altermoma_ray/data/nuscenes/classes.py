"""The classes of nuScenes detections."""

# Changing the order would break every stored index, which holds labels as positions in this tuple.
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
