"""The area around the car in which a scene's objects are, at every keyframe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from altermoma_ray.data.synthetic.kinds import Range


@dataclass(frozen=True)
class Area:
    """Where objects are, seen from the car: a rectangle, of which a wedge ahead of the car may be cut out.

    >>> Area((5.0, 40.0), (-20.0, 20.0), opening=0.5).holds(10.0, 7.0)
    False
    """

    ahead: Range
    """Least and greatest x (m, ego frame)."""
    left: Range
    """Least and greatest y (m, ego frame)."""
    opening: float = math.inf
    """Greatest |y| / x."""

    def draw(self, random: np.random.Generator) -> tuple[float, float]:
        """A place in the rectangle."""
        ahead, left = random.uniform((self.ahead[0], self.left[0]), (self.ahead[1], self.left[1]))
        return float(ahead), float(left)

    def holds(self, ahead: float, left: float) -> bool:
        """Whether a place is in the area."""
        inside = self.ahead[0] <= ahead <= self.ahead[1] and self.left[0] <= left <= self.left[1]
        return inside and (math.isinf(self.opening) or abs(left) <= self.opening * ahead)


ALL_AROUND = Area((-24.0, 24.0), (-24.0, 24.0))
"""The area of nuScenes' six cameras."""
AHEAD = Area((5.0, 42.5), (-22.0, 22.0), opening=0.8)
"""The area of KITTI's camera, and a little beside its picture."""
