from __future__ import annotations

import math

import pytest
from nuscenes.eval.detection.utils import detection_name_to_rel_attributes

from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.tasks.metrics.nuscenes_attributes import attribute


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("speed", [0.0, 5.0, math.nan])
def test_attributes_are_those_of_the_class(name, speed):
    allowed = detection_name_to_rel_attributes(name)
    assert attribute(name, speed) in (allowed or [""])


def test_speed_decides():
    assert attribute("car", 0.19) == "vehicle.parked"
    assert attribute("car", 0.21) == "vehicle.moving"
    assert attribute("bus", 0.0) == "vehicle.stopped"
    assert attribute("bicycle", 3.0) == "cycle.with_rider"
    assert attribute("pedestrian", math.nan) == "pedestrian.standing"
