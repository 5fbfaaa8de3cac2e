"""The picture of a search, its trials and their Pareto front, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from altermoma_ray.metrics import SPARSITY, Metric

if TYPE_CHECKING:
    from altermoma_ray.tracking.leaderboard.board import Row

Point = tuple[float, float]
"""A trial's figures along the horizontal and the vertical axis."""


def pareto_front(points: Sequence[Point], across: Metric, up: Metric) -> list[Point]:
    """The points that no other one beats in both metrics at once, by rising horizontal figure.

    >>> points = [(0.8, 0.5), (0.9, 0.4), (0.85, 0.3), (0.7, 0.5)]
    >>> pareto_front(points, SPARSITY, Metric("map", "mAP"))
    [(0.8, 0.5), (0.9, 0.4)]
    >>> pareto_front(points, SPARSITY, Metric("loss", "loss", "minimize"))
    [(0.85, 0.3), (0.9, 0.4)]

    Args:
        points: figures of the trials, in any order.
        across: the metric of each point's first figure.
        up: the metric of the second one.
    """
    # From the best figure across to the worst, so only an earlier point can beat a point. The front's last point is
    # the best of all earlier ones in the other metric: one comparison replaces a comparison with each of them.
    front: list[Point] = []
    for point in sorted(set(points), key=lambda point: (across.gain(point[0]), up.gain(point[1])), reverse=True):
        if not front or up.gain(point[1]) > up.gain(front[-1][1]):
            front.append(point)
    return sorted(front)


def search_picture(
    name: str,
    rows: Sequence[Row],
    champion: str | None,
    reference: Mapping[str, float | None],
    axes: tuple[Metric, Metric],
) -> bytes:
    """A search's trials by two metrics.

    Args:
        name: of the search.
        rows: its leaderboard; rows without finite figures are left out.
        champion: run id of the registered champion.
        reference: the unpruned model's metrics.
        axes: the metrics across and up.
    """
    # No list for failed trials: a row without figures is skipped before its status is looked up.
    points: dict[str, list[Point]] = {"finished": [], "stopped": []}
    marked = None
    for row in rows:
        figures = {**row.metrics, SPARSITY.name: row.sparsity["total"]}
        across, up = (figures.get(metric.name) for metric in axes)
        if across is not None and up is not None:
            points[row.status].append((across, up))
            if row.run_id == champion:
                marked = points[row.status][-1]
    unpruned = reference.get(axes[1].name)
    return pareto_picture(name, points["finished"], points["stopped"], axes, champion=marked, reference=unpruned)


def pareto_picture(
    title: str,
    finished: Sequence[Point],
    stopped: Sequence[Point],
    metrics: tuple[Metric, Metric],
    *,
    champion: Point | None,
    reference: float | None,
) -> bytes:
    """One metric over another: all trials, their Pareto front, the champion and the unpruned model's figure.

    Args:
        title: of the picture.
        finished: points of the finished trials.
        stopped: points of trials stopped early, which may lie on the front, too.
        metrics: the metrics across and up.
        champion: point of the champion, marked by a star.
        reference: the unpruned model's figure up, drawn as a horizontal line.
    """
    across, up = metrics
    percent = across == SPARSITY
    # Figure and not pyplot, which keeps every figure for the process's life and is not safe outside the main thread.
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=f"{across.title} (%)" if percent else across.title, ylabel=up.title)
    axes.grid(alpha=0.3)
    if reference is not None:
        axes.axhline(reference, color="tab:gray", linestyle="--", label="unpruned")
    # In the order of drawing: the champion lies over its own dot.
    series: list[tuple[Sequence[Point], str, dict[str, Any]]] = [
        (pareto_front([*finished, *stopped], across, up), "Pareto front", {"color": "tab:blue", "alpha": 0.5}),
        (finished, "finished", {"color": "tab:blue", "marker": "o", "linestyle": ""}),
        (stopped, "stopped early", {"color": "tab:orange", "marker": "x", "linestyle": ""}),
        ([champion] if champion else [], "champion", {"color": "tab:red", "marker": "*", "markersize": 14, "ls": ""}),
    ]
    for points, label, look in series:
        if points:
            axes.plot([x * (100 if percent else 1) for x, _ in points], [y for _, y in points], label=label, **look)
    if axes.has_data():
        axes.legend()
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """The figure, drawn at 100 dots an inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()
