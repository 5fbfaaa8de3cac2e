"""A greedy tracker of detections by centre and velocity, as CenterPoint's (Yin et al., CVPR 2021, Section 4.3).

Notation: ``K`` detections of a frame, best first; ``T`` tracks. All positions are in a frame that does not move with
the vehicle, since a parked car must stay where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.models.configurations.tracker import TrackerConfig

UNTRACKED = -1
"""The number in the place of an identity for detections of classes that are not tracked."""


@dataclass(kw_only=True)
class Tracks:
    """The tracks which a detection may continue."""

    identities: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[T]."""
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[T] indices into the tracker's classes."""
    centres: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    """[T, 2] x, y (m): of the last detection, moved on since then."""
    velocities: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    """[T, 2] of the last detection (m/s)."""
    ages: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[T] frames since the last detection."""


class Tracker:
    """Gives detections identities, frame by frame, in one scene.

    A car at 10 m/s is found twice, half a second apart; in the second frame a pedestrian appears:

    >>> tracker = Tracker(TrackerConfig(), classes=("car", "pedestrian"))
    >>> tracker.step([[0.0, 0.0]], [[10.0, 0.0]], [0], seconds=0.5)
    array([0])
    >>> tracker.step([[5.2, 0.0], [0.0, 1.0]], [[10.0, 0.0], [0.0, 0.0]], [0, 1], seconds=0.5)
    array([0, 1])
    """

    def __init__(self, config: TrackerConfig, *, classes: Sequence[str]) -> None:
        """Begin a scene.

        Args:
            config: limits by class, and patience.
            classes: the names that labels are indices of.
        """
        self._max_age = config.max_age
        # A limit below every distance keeps a class out.
        self._limits = np.array([config.limits.get(name, -np.inf) for name in classes])
        self._tracks = Tracks()
        self._born = 0

    def step(
        self,
        centres: Sequence[Sequence[float]] | NDArray[np.float64],
        velocities: Sequence[Sequence[float]] | NDArray[np.float64],
        labels: Sequence[int] | NDArray[np.int64],
        *,
        seconds: float,
    ) -> NDArray[np.int64]:
        """Track one frame.

        The detections take their tracks in turn, the best first. Each takes the nearest free track of its class within
        the limit of the class, and begins a track where there is none. Tracks without a detection move on at their last
        velocity, until they are given up.

        Args:
            centres: [K, 2] x, y (m), best detection first.
            velocities: [K, 2] (m/s); NaN counts as standing still.
            labels: [K] indices into the classes.
            seconds: since the frame before; without effect in the first frame.

        Returns:
            [K] identities from 0 up, each once; :data:`UNTRACKED` for a class that is not tracked.
        """
        centre = np.asarray(centres, np.float64).reshape(-1, 2)
        velocity = np.nan_to_num(np.asarray(velocities, np.float64).reshape(-1, 2))
        label = np.asarray(labels, np.int64)
        matches = self._match(centre - velocity * seconds, label)
        tracked = self._limits[label] > 0
        identities = np.full(len(label), UNTRACKED, np.int64)
        found = matches >= 0
        identities[found] = self._tracks.identities[matches[found]]
        born = tracked & ~found
        identities[born] = self._born + np.arange(np.count_nonzero(born))
        self._born += int(np.count_nonzero(born))
        seen = Tracks(
            identities=identities[tracked],
            classes=label[tracked],
            centres=centre[tracked],
            velocities=velocity[tracked],
            ages=np.ones(np.count_nonzero(tracked), np.int64),
        )
        self._tracks = _joined(seen, self._unseen(matches[found], seconds))
        return identities

    def _match(self, before: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """[K] positions of the tracks taken by detections, -1 for none.

        Args:
            before: [K, 2] where the detections were at the time of the last frame.
            labels: [K].
        """
        tracks, matches = self._tracks, np.full(len(labels), -1, np.int64)
        if not len(tracks.identities):
            return matches
        distances = np.linalg.norm(before[:, None] - tracks.centres[None], axis=2)
        barred = (distances > self._limits[labels][:, None]) | (labels[:, None] != tracks.classes[None])
        distances[barred] = np.inf
        for detection in np.flatnonzero(np.isfinite(distances).any(axis=1)):
            nearest = int(distances[detection].argmin())
            # Better detections may have taken all tracks in reach.
            if np.isfinite(distances[detection, nearest]):
                matches[detection] = nearest
                distances[:, nearest] = np.inf
        return matches

    def _unseen(self, taken: NDArray[np.int64], seconds: float) -> Tracks:
        """The tracks without a detection that are not given up yet, moved on.

        The published tracker moves them by the displacement between the last two frames; the same for frames at equal
        distances in time, but a frame left out would double that displacement.
        """
        tracks = self._tracks
        kept = tracks.ages < self._max_age
        kept[taken] = False
        return Tracks(
            identities=tracks.identities[kept],
            classes=tracks.classes[kept],
            centres=tracks.centres[kept] + tracks.velocities[kept] * seconds,
            velocities=tracks.velocities[kept],
            ages=tracks.ages[kept] + 1,
        )


def _joined(one: Tracks, other: Tracks) -> Tracks:
    fields = {name: np.concatenate((value, getattr(other, name))) for name, value in vars(one).items()}
    return Tracks(**fields)
