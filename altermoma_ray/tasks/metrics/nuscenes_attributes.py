"""The nuScenes attribute of a detection, guessed from its speed as the published detectors do (CBGS, CenterPoint)."""

from __future__ import annotations

MOVING_SPEED = 0.2
"""Speed (m/s) above which an object counts as moving."""

_MOVING = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer"), "vehicle.moving"),
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.with_rider"),
    "pedestrian": "pedestrian.moving",
}
_AT_REST = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "trailer"), "vehicle.parked"),
    "bus": "vehicle.stopped",
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.without_rider"),
    "pedestrian": "pedestrian.standing",
}


def attribute(class_name: str, speed: float) -> str:
    """Attribute of an object of a detection class at a speed in m/s; ``""`` for barriers and traffic cones.

    An unknown (NaN) speed counts as rest.

        >>> attribute("car", 3.0), attribute("car", 0.0), attribute("barrier", 0.0)
        ('vehicle.moving', 'vehicle.parked', '')
    """
    # A comparison with NaN is false, hence the order of the two branches.
    return (_MOVING if speed > MOVING_SPEED else _AT_REST).get(class_name, "")
