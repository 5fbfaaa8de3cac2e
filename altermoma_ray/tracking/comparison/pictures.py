"""Comparisons and ablations as PNG bytes: means over seeds, their 95 % intervals as bands.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and dashes say the same once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from altermoma_ray.metrics import Metric
from altermoma_ray.tracking.comparison.statistics import (
    SERIES,
    Estimate,
    Value,
    by_seed,
    by_value,
    estimate,
    grouped,
    is_unpruned,
    ordered,
    parameter,
)
from altermoma_ray.tracking.comparison.text import score_text, seeds_text, series_text, text
from altermoma_ray.tracking.pictures import to_png
from altermoma_ray.tracking.result import TrialResult

LOGARITHMIC = {"reactivation_steps", "reactivation_learning_rate", "scoring_batches", "learning_rate"}
LOGARITHMIC |= {"fine_tune_epochs"}
"""Parameters drawn on a logarithmic axis."""
_OURS, _OUR_COLOUR = "altermoma", "#D55E00"
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#882255", "#999933")
_MARKERS, _DASHES = "osD^vP<>", ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_WIDTH, _HEIGHT = 7.5, 5.0  # inches, of one panel

Curve = list[tuple[Value, Estimate]]


def comparison_picture(results: Sequence[TrialResult], reference: Mapping[str, float], metric: Metric) -> bytes:
    """A metric over sparsity, a line for each criterion; a panel for each length of fine-tuning.

    Args:
        results: all trials of a comparison.
        reference: metrics of the given unpruned model.
        metric: up.

    Raises:
        ValueError: a seed occurs twice in one setting.
    """
    # Criteria are compared at equal cost only, so each length has its panel. Without trials one empty panel is drawn.
    budgets = by_value(grouped(results, ("fine_tune_epochs",))) or [((None,), [])]
    figure = Figure(figsize=(_WIDTH * len(budgets), _HEIGHT), layout="constrained")
    for column, ((epochs,), trials) in enumerate(budgets, start=1):
        axes = figure.add_subplot(1, len(budgets), column, xlabel="sparsity (%)", ylabel=metric.title)
        curves = {key: _curve(group, "sparsity", metric) for key, group in grouped(_pruned(trials), ("label",)).items()}
        counts = [point.n for curve in curves.values() for _, point in curve]
        axes.set_title(f"{text('fine_tune_epochs', epochs)} of fine-tuning, {seeds_text(counts)}")
        # Colours go by the place among the criteria, in the order of the trials: alike in all panels of a full grid.
        for position, ((label,), curve) in enumerate(curves.items()):
            points = [(100 * float(value or 0), point) for value, point in curve]
            _draw(axes, points, text("label", label), position, ours=label == _OURS)
        # Ticks at the measured sparsities: 80, 90, 95 and 98 % lie unevenly, and no other has a figure.
        axes.set_xticks(sorted({100 * float(value or 0) for curve in curves.values() for value, _ in curve}))
        _references(axes, trials, reference, metric)
        _legend(axes)
    return to_png(figure)


def ablation_picture(
    results: Sequence[TrialResult],
    axis: str,
    label: str,
    metric: Metric,
    reference: Mapping[str, float] | None = None,
) -> bytes:
    """A metric over the values of one parameter, a line for each criterion, sparsity and length of fine-tuning.

    Trials without a value of the parameter are drawn as a horizontal line.

    Args:
        results: trials with differences only in ``axis`` and in the parameters of the lines.
        axis: the parameter's name; see :data:`LOGARITHMIC`.
        label: name of the axis.
        metric: up.
        reference: metrics of the given unpruned model, drawn as a horizontal line.

    Raises:
        ValueError: a seed occurs twice at one point.
    """
    # The parameter of the axis tells points of a line apart, not lines.
    names = tuple(name for name in SERIES if name != axis)
    pruned = _pruned(results)
    series = dict(by_value(grouped(pruned, names)))
    values = [value for value in ordered(parameter(result, axis) for result in pruned) if value is not None]
    categories = any(isinstance(value, (str, bool)) for value in values)
    # Texts stand at whole numbers, without a line between: no order leads from one to the next.
    places = {value: place if categories else float(value) for place, value in enumerate(values)}
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot(xlabel=label, ylabel=metric.title)
    counts = []
    for position, (key, trials) in enumerate(series.items()):
        curve = _curve(trials, axis, metric)
        counts += [point.n for _, point in curve]
        points = [(places[value], point) for value, point in curve if value is not None]
        _draw(axes, points, series_text(names, key, series), position, ours=position == 0, line=not categories)
        # A setting without the parameter (a criterion without reactivation) has no place on the axis.
        for point in (point for value, point in curve if value is None):
            name = f"{series_text(names, key, series)}, no {label}"
            axes.axhline(point.mean, color=_look(position, ours=position == 0)[0], linestyle=":", label=name)
    axes.set_title(seeds_text(counts))
    # A logarithmic axis has no place for 0, a possible B or length of fine-tuning.
    if axis in LOGARITHMIC and values and all(place > 0 for place in places.values()):
        axes.set_xscale("log")
    if len(values) <= 12:
        axes.set_xticks(list(places.values()), [text(axis, value) for value in values])
        # A logarithmic axis would add its own ticks between the measured values.
        axes.minorticks_off()
    _references(axes, results, reference, metric)
    _legend(axes)
    return to_png(figure)


def grid_picture(
    results: Sequence[TrialResult], axes: tuple[str, str], labels: tuple[str, str], metric: Metric
) -> bytes:
    """A metric by two parameters, rows and columns, as a heat map for each criterion, sparsity and fine-tuning.

    Args:
        results: trials with differences only in ``axes`` and in the parameters of the heat maps.
        axes: the parameters of the rows and of the columns.
        labels: names of both axes.
        metric: in the cells.

    Raises:
        ValueError: a seed occurs twice in a cell.
    """
    series = dict(by_value(grouped(_pruned(results), SERIES)))
    figure = Figure(figsize=(_WIDTH * max(len(series), 1), _HEIGHT), layout="constrained")
    for column, (key, trials) in enumerate(series.items(), start=1):
        cells = {cell: estimate(list(by_seed(group, metric).values())) for cell, group in grouped(trials, axes).items()}
        rows, columns = ordered(row for row, _ in cells), ordered(column for _, column in cells)
        # NaN leaves a cell blank: an ablation need not hold every pair of values.
        means = [[cells[row, value].mean if (row, value) in cells else math.nan for value in columns] for row in rows]
        panel = figure.add_subplot(1, len(series), column, xlabel=labels[1], ylabel=labels[0])
        panel.set_title(f"{series_text(SERIES, key, series)}, {seeds_text(cell.n for cell in cells.values())}")
        image = panel.imshow(means, cmap="cividis", aspect="auto")
        figure.colorbar(image, ax=panel, label=metric.title)
        panel.set_xticks(range(len(columns)), [text(axes[1], value) for value in columns])
        panel.set_yticks(range(len(rows)), [text(axes[0], value) for value in rows])
        for row, line in enumerate(means):
            for place, mean in enumerate(line):
                # cividis begins in dark blue and ends in yellow: white reads on its lower half, black on the upper.
                dark = math.isfinite(mean) and image.norm(mean) < 0.5
                panel.text(place, row, score_text(mean), ha="center", va="center", color="white" if dark else "black")
    return to_png(figure)


def _pruned(results: Sequence[TrialResult]) -> list[TrialResult]:
    return [result for result in results if not is_unpruned(result)]


def _curve(trials: Sequence[TrialResult], axis: str, metric: Metric) -> Curve:
    """Estimates by rising value, without those lacking a result."""
    groups = by_value(grouped(trials, (axis,)))
    points = ((key[0], estimate(list(by_seed(group, metric).values()))) for key, group in groups)
    return [(value, point) for value, point in points if point.n]


def _look(position: int, *, ours: bool) -> tuple[str, str, object]:
    """Colour, marker and dashes of a line."""
    if ours:
        return _OUR_COLOUR, "*", "-"
    # Lists of 8, 8 and 5: one look comes again after 40 lines.
    return tuple(choices[position % len(choices)] for choices in (_COLOURS, _MARKERS, _DASHES))  # type: ignore[return-value]


def _draw(
    axes: Axes, points: Sequence[tuple[float, Estimate]], name: str, position: int, *, ours: bool, line: bool = True
) -> None:
    """A line with its band; where there is none to draw, points with error bars."""
    colour, marker, dashes = _look(position, ours=ours)
    x, means = [place for place, _ in points], [point.mean for _, point in points]
    widths = [point.half_width for _, point in points]
    # Where lines meet, the method of this project is drawn above all others.
    order = 5 if ours else 2
    # One point has no line, and a band over a single place would have no width.
    line = line and len(points) > 1
    axes.plot(
        x,
        means,
        color=colour,
        marker=marker,
        markersize=11 if ours else 6,
        linestyle=dashes if line else "",
        linewidth=2.5 if ours else 1.5,
        label=name,
        zorder=order,
    )
    if not line:
        axes.errorbar(x, means, widths, color=colour, linestyle="", capsize=4, zorder=order)
    else:
        low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=order - 1)


def _references(
    axes: Axes, results: Sequence[TrialResult], reference: Mapping[str, float] | None, metric: Metric
) -> None:
    """Horizontal lines: the given unpruned model, and the same after each length of fine-tuning."""
    if reference is not None and metric.name in reference:
        axes.axhline(reference[metric.name], color="tab:gray", linestyle="--", label="unpruned")
    lengths = by_value(grouped([result for result in results if is_unpruned(result)], ("fine_tune_epochs",)))
    for (epochs,), trials in lengths:
        found = estimate(list(by_seed(trials, metric).values()))
        name = "unpruned + fine-tuning" + (f", {text('fine_tune_epochs', epochs)}" if len(lengths) > 1 else "")
        axes.axhline(found.mean, color="tab:gray", linestyle=":", linewidth=2, label=name)
        # One seed has no interval, and a band of NaN no edges.
        if found.n > 1:
            axes.axhspan(found.mean - found.half_width, found.mean + found.half_width, color="tab:gray", alpha=0.15)


def _legend(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    if axes.has_data():
        # Beside the axes: with many criteria no corner is free of lines.
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
