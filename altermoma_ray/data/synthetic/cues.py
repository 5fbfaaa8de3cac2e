"""How much each sensor alone can tell: the dial between complementary and redundant sensors.

At 0 the sensors complement each other: the paint tells the class to the cameras alone, and the LiDAR alone tells the
place well. At 1 each of them tells both:

============  =================================================  ===================================================
              at 0                                               at 1
============  =================================================  ===================================================
LiDAR, class  look-alikes reflect alike                          twice the usual step between look-alikes, and a
                                                                 spread within a class of an eighth of that step
camera, place sizes spread as usual; haze of 120 m               one size for each class, so that the apparent size
                                                                 tells the distance; haze of 30 m, so that the fading
                                                                 of a known paint tells it too
radar, class  look-alikes are equally strong, and give equally   look-alikes differ by 8 dB, with a noise of 2 dB
              many returns
radar, place  small objects mostly give no return                every object gives a return
============  =================================================  ===================================================

Look-alikes are kinds of one shape and one range of sizes (:mod:`altermoma_ray.data.synthetic.kinds`). In between, steps
grow linearly, and spreads and the haze shrink linearly, and geometrically. The usual set, without a dial, is none of
these: its look-alikes reflect a step apart, as at 0.5, with the spread of 0.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import lru_cache

from altermoma_ray.data.synthetic.kinds import CLUTTER, KINDS, REFLECTIVITY_SPREAD, Kind, Range

HAZE = 120.0
"""Distance over which haze takes all but 1/e of a colour (m)."""
_NEAR_HAZE = 30.0
_SMALL_SPREAD = 3.0
_RADAR_STEP = 4.0


@dataclass(frozen=True, kw_only=True)
class Cues:
    """The figures that a dial turns; the defaults are the usual set's.

    >>> Cues().size((4.0, 5.0)), cues_at(0.5).size((4.0, 5.0)), cues_at(1.0).size((4.0, 5.0))
    ((4.0, 5.0), (4.25, 4.75), (4.5, 4.5))
    """

    haze: float = HAZE
    """Distance over which haze takes all but 1/e of a colour (m)."""
    size_spread: float = 1.0
    """Share of a kind's ranges of sizes that is drawn from."""
    reflectivity_step: float = 1.0
    """Factor on the differences of reflectivity between look-alikes."""
    reflectivity_spread: float = REFLECTIVITY_SPREAD
    """Standard deviation within a kind."""
    radar_step: float | None = None
    """Half the difference between look-alikes that reflect more and less than their mean (dB); None for what their
    usual numbers of returns make it."""
    radar_share: float = 0.0
    """Share of the objects without a radar return that are given one."""

    def size(self, limits: Range) -> Range:
        """The range that a length is drawn from (m).

        Args:
            limits: the kind's own range (m).
        """
        if self.size_spread == 1:  # the very numbers: the usual set's bytes must not change
            return limits
        middle, half = sum(limits) / 2, self.size_spread * (limits[1] - limits[0]) / 2
        return middle - half, middle + half

    def reflectivity(self, kind: Kind) -> float:
        """Mean LiDAR intensity of a kind, 0..255."""
        if self.reflectivity_step == 1:
            return kind.reflectivity
        mean = _mean_of_look_alikes(kind)
        return mean + self.reflectivity_step * (kind.reflectivity - mean)

    def radar_returns(self, kind: Kind) -> float:
        """Mean number of a kind's radar returns."""
        if self.radar_step is None:
            return kind.radar
        return statistics.mean(one.radar for one in _look_alikes(kind))

    def radar_strength(self, kind: Kind) -> float:
        """Mean cross section of a kind's radar returns (dBsm)."""
        strength = 5.0 + 3.0 * self.radar_returns(kind)
        if self.radar_step is None:
            return strength
        difference = kind.reflectivity - _mean_of_look_alikes(kind)
        return strength + self.radar_step * ((difference > 0) - (difference < 0))


def cues_at(redundancy: float | None) -> Cues:
    """The cues at a position of the dial, 0..1; the usual set's for None.

    >>> cues_at(0.0).reflectivity(KINDS[1]) == cues_at(0.0).reflectivity(KINDS[2])  # truck, construction vehicle
    True
    """
    if redundancy is None:
        return Cues()
    return Cues(
        haze=HAZE * (_NEAR_HAZE / HAZE) ** redundancy,
        size_spread=1 - redundancy,
        reflectivity_step=2 * redundancy,
        reflectivity_spread=REFLECTIVITY_SPREAD + redundancy * (_SMALL_SPREAD - REFLECTIVITY_SPREAD),
        radar_step=_RADAR_STEP * redundancy,
        radar_share=redundancy,
    )


def _mean_of_look_alikes(kind: Kind) -> float:
    """Mean reflectivity."""
    return statistics.mean(one.reflectivity for one in _look_alikes(kind))


@lru_cache(maxsize=len(KINDS) + len(CLUTTER))
def _look_alikes(kind: Kind) -> tuple[Kind, ...]:
    """Classes of the shape and sizes of a kind; clutter, which must be refused and not told, has none but itself."""
    if not kind.category:
        return (kind,)
    return tuple(one for one in KINDS if (one.parts, one.size) == (kind.parts, kind.size))
