"""Counts of the CLEAR MOT metrics (Bernardin and Stiefelhagen, 2008) over the frames of one scene.

motmetrics matches objects and tracks frame by frame. Its tables of events are left out: counts are all that the metrics
of nuScenes need, and a table for each of 40 thresholds takes longer than the matching.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from motmetrics import MOTAccumulator
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Frame:
    """N objects and the M boxes of tracks in one frame."""

    objects: NDArray[np.int64]
    """[N] identities."""
    tracks: NDArray[np.int64]
    """[M] identities."""
    scores: NDArray[np.float64]
    """[M]."""
    distances: NDArray[np.float64]
    """[N, M] between centres (m); NaN where too far apart for a match."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What happened to objects and tracks; counts of scenes add up.

    >>> (Counts(matches=3, distance=0.5) + Counts(matches=1, misses=2)).matches
    4
    """

    matches: int = 0
    """Objects with a track, which is the object's track of before or its first one."""
    switches: int = 0
    """Objects with another track than before."""
    misses: int = 0
    """Objects without a track."""
    false_positives: int = 0
    """Boxes of tracks without an object."""
    distance: float = 0.0
    """Sum of the distances of all objects with a track (m)."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


class Scene:
    """The frames of one scene, matched at any threshold of the tracks' scores.

    >>> far = Frame(
    ...     objects=np.array([7]), tracks=np.array([1]), scores=np.array([0.4]), distances=np.array([[np.nan]])
    ... )
    >>> Scene([far]).counts(0.3)
    Counts(matches=0, switches=0, misses=1, false_positives=1, distance=0.0)
    >>> Scene([far]).counts(0.5).false_positives
    0
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        self._levels = np.unique(np.concatenate([frame.scores for frame in frames]))
        self._known: dict[int, Counts] = {}

    def counts(self, threshold: float) -> Counts:
        """The counts of tracks whose score reaches a threshold."""
        # Thresholds between the same two scores leave the same tracks; a scene has few tracks of a class.
        level = int(np.searchsorted(self._levels, threshold))
        if level not in self._known:
            matching = _Matching()
            for number, frame in enumerate(self._frames):
                matching.add(frame, number, frame.scores >= threshold)
            self._known[level] = matching.counts()
        return self._known[level]

    def matched_scores(self) -> list[float]:
        """The scores of all boxes that match an object, switches left out, without a threshold."""
        matching, scores = _Matching(), []
        for number, frame in enumerate(self._frames):
            matching.matched.clear()
            matching.add(frame, number, np.full(len(frame.scores), True))
            scores += frame.scores[np.isin(frame.tracks, matching.matched)].tolist()
        return scores


class _Matching(MOTAccumulator):
    """An accumulator that counts its events instead of listing them.

    motmetrics has no public way to do so; the two overridden methods are its own for every event.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counted: Counter[str] = Counter()
        self._distance = 0.0
        self.matched: list[int] = []
        """Tracks of the matches since the list was cleared."""

    def add(self, frame: Frame, number: int, kept: NDArray[np.bool_]) -> None:
        """Match a frame.

        Args:
            frame: the next frame.
            number: of the frame.
            kept: [M] the boxes to take part.
        """
        if len(frame.objects) or kept.any():
            self.update(frame.objects, frame.tracks[kept], frame.distances[:, kept], frameid=number)

    def counts(self) -> Counts:
        counted = self._counted
        return Counts(
            matches=counted["MATCH"],
            switches=counted["SWITCH"],
            misses=counted["MISS"],
            false_positives=counted["FP"],
            distance=self._distance,
        )

    def _append_to_indices(self, frameid: int, eid: int) -> None:
        pass

    def _append_to_events(self, typestr: str, oid: int, hid: int, distance: float) -> None:
        self._counted[typestr] += 1
        if typestr in ("MATCH", "SWITCH"):
            self._distance += float(distance)
        if typestr == "MATCH":
            self.matched.append(hid)
