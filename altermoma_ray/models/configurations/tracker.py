"""The section of a configuration that describes a tracker of detections.

Published figures: CenterPoint's tracker (Yin et al., CVPR 2021), made for keyframes half a second apart.
"""

from __future__ import annotations

from pydantic import Field

from altermoma_ray.models.configurations.section import Section

LIMITS = {
    "bicycle": 3.0,
    "bus": 5.5,
    "car": 4.0,
    "motorcycle": 13.0,
    "pedestrian": 1.0,
    "trailer": 3.0,
    "truck": 4.0,
}
"""Nearly all errors of the published velocities over half a second are smaller (m)."""


class TrackerConfig(Section):
    """Greedy tracker by centre and velocity.

    >>> TrackerConfig(max_age=1).limits["bus"]
    5.5
    """

    limits: dict[str, float] = Field(default_factory=LIMITS.copy)
    """Greatest distance (m) between a track and its next detection, by class; other classes are not tracked."""
    max_age: int = Field(3, ge=1)
    """Greatest number of frames from a track's last detection to its next detection; 1 forgives no missed frame."""
