"""The metrics of 3D object detection on KITTI: average precisions in percent, by type and difficulty.

``ap-3d`` and ``ap-bev`` overlap boxes in space and on the ground. Without a suffix they are means over 40 recall
points, official since October 2019; ``-r11`` marks the older means over 11 points, which papers until then print.
``ap-3d`` alone is the mean over the learned types at moderate difficulty, by which KITTI ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altermoma_ray.metrics import Metric

DIFFICULTIES = ("easy", "moderate", "hard")
MODERATE = "moderate"
_OVERLAPS = {"ap-3d": ("3d", "AP-3D"), "ap-bev": ("bev", "AP-BEV")}
"""Key and title of each overlap."""
_MEANS = {"": ("r40", ""), "-r11": ("r11", " R11")}
"""Key and title of each mean over recalls, by the suffix of a metric's name."""


def metrics_of(types: Sequence[str]) -> tuple[Metric, ...]:
    """All metrics of a model that learns some types; columns are those of moderate difficulty over 40 points.

    >>> [metric.name for metric in metrics_of(("Car",)) if metric.is_column]
    ['ap-3d', 'ap-bev']
    >>> metrics_of(("Car",))[4].title
    'AP-3D of car, easy'

    Args:
        types: the learned types, as in the label files.
    """
    means, single = [], []
    for suffix, (_, points) in _MEANS.items():
        for name, (_, title) in _OVERLAPS.items():
            means.append(Metric(f"{name}{suffix}", f"{title}{points}", is_column=not suffix))
            single += [
                Metric(
                    f"{name}{suffix}/{kind.lower()}/{difficulty}",
                    f"{title}{points} of {kind.lower()}, {difficulty}",
                    # The mean over one type is the type's own.
                    is_column=not suffix and difficulty == MODERATE and len(types) > 1,
                )
                for kind in types
                for difficulty in DIFFICULTIES
            ]
    return (*means, *single)


def flat(precisions: Mapping[str, Any], types: Sequence[str]) -> dict[str, float]:
    """The values of :func:`metrics_of` by name.

    Args:
        precisions: by type in lower case, overlap, mean and difficulty, as
            :func:`altermoma_ray.tasks.metrics.kitti.evaluate` gives them.
        types: the learned types.
    """
    values: dict[str, float] = {}
    kinds = [kind.lower() for kind in types]
    for suffix, (points, _) in _MEANS.items():
        for name, (overlap, _) in _OVERLAPS.items():
            tables = {kind: precisions[kind][overlap][points] for kind in kinds}
            values[f"{name}{suffix}"] = sum(float(table[MODERATE]) for table in tables.values()) / len(kinds)
            for kind, table in tables.items():
                values |= {f"{name}{suffix}/{kind}/{level}": float(table[level]) for level in DIFFICULTIES}
    return values
