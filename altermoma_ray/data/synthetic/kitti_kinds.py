"""The objects of the synthetic KITTI: KITTI's classes, made of the kinds of the town, and unlabelled clutter.

Every class has a look-alike of its shape and sizes in other paint, so that the LiDAR alone cannot tell a class: a car
and a loaded trailer (``Misc``), a van and a truck, a pedestrian and a cone or bin, a cyclist and a bush. Paint tells
them to the camera; reflectivity hints it to the LiDAR, as in the synthetic nuScenes. Sizes and haze leave the camera
unsure of places.
"""

from __future__ import annotations

from dataclasses import replace

from altermoma_ray.data.synthetic.kinds import CLUTTER, KINDS, RIDDEN_HEIGHT, RIDDEN_PARTS, Kind, Paint

_KINDS = {kind.name: kind for kind in (*KINDS, *CLUTTER)}
_WOOD, _LEAVES = (_KINDS[name].paints[0] for name in ("shed", "hedge"))
# About the mean of KITTI's pedestrians, 0.84 by 0.66 by 1.76 m, whose arms and steps belong to the box.
_PERSON_SIZE = ((0.74, 0.94), (0.58, 0.74), (1.6, 1.9))


def _ridden(name: str, **others: object) -> Kind:
    """A cycle whose rider never gets off: KITTI's cyclists are cycle and rider in one box."""
    cycle = _KINDS[name]
    length, width, _ = cycle.size
    size = (length, width, RIDDEN_HEIGHT)
    return replace(cycle, parts=RIDDEN_PARTS, size=size, riders=False, **others)  # type: ignore[arg-type]


KITTI_KINDS = (
    replace(_KINDS["car"], category="Car", count=(3, 6)),
    replace(
        _KINDS["car"], name="trailer", category="Misc", paints=(_WOOD, _WOOD, _WOOD), reflectivity=48, count=(2, 5)
    ),
    replace(
        _KINDS["truck"],
        name="van",
        category="Van",
        paints=(*(Paint((0.98, 1.02), (0.6, 0.9), (0.45, 0.75)) for _ in range(2)), _KINDS["truck"].paints[2]),
        reflectivity=48,
        count=(0, 2),
    ),
    replace(_KINDS["truck"], category="Truck", count=(0, 1)),
    replace(_KINDS["pedestrian"], category="Pedestrian", size=_PERSON_SIZE, count=(3, 6)),
    _ridden("bicycle", category="Cyclist", count=(1, 3), moving=0.7),
    _ridden("motorcycle", category="Cyclist", count=(1, 2), moving=0.7),
    # Unlabelled from here on.
    replace(_KINDS["traffic_cone"], category="", size=_PERSON_SIZE, count=(2, 3)),
    replace(_KINDS["bin"], size=_PERSON_SIZE, count=(1, 3)),
    _ridden("bicycle", category="", count=(2, 3), moving=0.0, paints=(_LEAVES, _LEAVES), reflectivity=34),
    replace(_KINDS["bicycle"], category="", count=(0, 2), moving=0.0, riders=False),
    replace(_KINDS["pole"], count=(1, 3)),
    replace(_KINDS["hedge"], count=(0, 2)),
    replace(_KINDS["shed"], count=(0, 1)),
)
"""Kinds whose category is a type of KITTI's labels, and clutter, whose category is empty."""
