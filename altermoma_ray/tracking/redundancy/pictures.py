"""Pictures of a redundancy report, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from altermoma_ray.tracking.pictures import to_png
from altermoma_ray.tracking.redundancy.records import (
    BEFORE,
    FINE_TUNED,
    INTACT,
    MASKED,
    PRUNED,
    REACTIVATED,
    GroupFigures,
    RedundancyReport,
    Removal,
)

Array = NDArray[np.float64]

MOST_BARS = 14
"""Layers of a group in the picture of shares; the table has them all."""
MOST_NAMES = 120
"""Largest number of layers with names on the map of sparsities."""
LONGEST_NAME = 40
"""Characters of a layer's name in a picture."""
_CHANGE = "change"
_DECI, _RERI = "tab:blue", "tab:orange"


def shares_picture(report: RedundancyReport) -> bytes:
    """A panel a group: DeCI and ReRI share of the layers with most of either, fusion-redundant ones in red."""
    chosen, names = (
        {},
        short_names({group.name: [x.name for x in report.layers_of(group.name)] for group in report.groups}),
    )
    for group in report.groups:
        layers = sorted(report.layers_of(group.name), key=lambda layer: -max(layer.deci_share, layer.reri_share))
        chosen[group.name] = layers[:MOST_BARS]
    # One height for all panels, so bars are equally thick; a group with fewer layers leaves its lower part empty.
    rows = max(map(len, chosen.values()))
    figure = Figure(figsize=(5.6 * len(chosen), 1.3 + 0.3 * rows), layout="constrained")
    for column, (group, layers) in enumerate(chosen.items(), start=1):
        axes = figure.add_subplot(1, len(chosen), column, title=group, xlabel="share of the group's sum (%)")
        places = np.arange(len(layers))
        axes.barh(places - 0.2, [100 * layer.deci_share for layer in layers], 0.4, color=_DECI, label="DeCI")
        axes.barh(places + 0.2, [100 * layer.reri_share for layer in layers], 0.4, color=_RERI, label="ReRI")
        axes.set_yticks(places, [names[layer.name] for layer in layers], fontsize=8)
        for label, layer in zip(axes.get_yticklabels(), layers, strict=True):
            label.set_color("tab:red" if layer.redundant else "black")
        # From high to low: matplotlib counts upwards, and the layer with the greatest share belongs on top.
        axes.set_ylim(rows - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="lower right")
    return to_png(figure)


def ranks_picture(groups: Sequence[GroupFigures]) -> bytes:
    """A panel a group: where weights lie by their ranks in DeCI and ReRI; the diagonal is full agreement."""
    figure = Figure(figsize=(3.7 * len(groups) + 0.8, 3.6), layout="constrained")
    panels = []
    for column, group in enumerate(groups, start=1):
        rho = "–" if group.spearman is None else f"{group.spearman:.2f}"
        title = f"{group.name}, Spearman {rho}"
        axes = figure.add_subplot(1, len(groups), column, title=title, xlabel="rank by DeCI (%)")
        axes.set_ylabel("rank by ReRI (%)" if column == 1 else "")
        picture = axes.imshow(
            # Logarithmic: twice as dense and half as dense lie equally far from white. An empty cell has no logarithm,
            # so the scale ends at 1/16.
            np.log2(np.maximum(np.array(group.ranks), 2**-4)),
            origin="lower", extent=(0, 100, 0, 100), cmap="PuOr_r", vmin=-4, vmax=4,
        )  # fmt: skip
        panels.append(axes)
    # One bar for all: the panels share their limits, so any of their images stands for the others.
    bar = figure.colorbar(picture, ax=panels, label="weights, over an even spread")
    bar.set_ticks([-4, -2, 0, 2, 4], labels=["≤ 1/16", "1/4", "1", "4", "16"])
    return to_png(figure)


def sparsity_picture(removals: Sequence[Removal], groups: Mapping[str, Sequence[str]]) -> bytes:
    """Layers by criteria: how much of each layer is removed."""
    names = [name for layers in groups.values() for name in layers]
    shown = short_names(groups)
    values = np.array([[100 * removal.layers[name] for removal in removals] for name in names])
    # Several hundred layers would make a picture of more than a metre.
    height = min(0.16 * len(names), 24)
    figure = Figure(figsize=(5.2 + 0.75 * len(removals), 1.6 + height), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=100)
    axes.set_xticks(range(len(removals)), [removal.criterion for removal in removals], rotation=40, ha="right")
    if len(names) <= MOST_NAMES:
        axes.set_yticks(range(len(names)), [shown[name] for name in names], fontsize=6.5)
    edge = 0
    for group, layers in groups.items():
        axes.text(len(removals) - 0.4, edge + (len(layers) - 1) / 2, group, rotation=-90, va="center", fontsize=10)
        edge += len(layers)
        # Row n of an image reaches from n − 0.5 to n + 0.5.
        axes.axhline(edge - 0.5, color="white", linewidth=2)
    figure.colorbar(picture, ax=axes, label="removed (%)", shrink=0.4, pad=0.06)
    return to_png(figure)


def sensors_picture(report: RedundancyReport) -> bytes:
    """The first metric of every state, with all sensors and with one lost."""
    lost = list(dict.fromkeys(entry.lost for entry in report.sensors))
    states = report.states()
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot(ylabel=report.title)
    width = 0.8 / len(lost)
    colours = ("tab:gray", "tab:purple", "tab:green", "tab:orange", "tab:blue")
    for number, sensor in enumerate(lost):
        values = [report.first(state, sensor) for state in states]
        # The bars of one state stand side by side, centred on the state's tick.
        places = np.arange(len(states)) + (number - (len(lost) - 1) / 2) * width
        heights = [value if math.isfinite(value) else 0.0 for value in values]
        label = "all sensors" if sensor == INTACT else f"{sensor} lost"
        bars = axes.bar(places, heights, width, label=label, color=colours[number % len(colours)])
        axes.bar_label(bars, [f"{value:.3f}" if math.isfinite(value) else "" for value in values], fontsize=8)
    axes.set_xticks(range(len(states)), states)
    axes.margins(y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return to_png(figure)


def features_picture(
    rows: Sequence[str], pictures: Mapping[str, Array], occupied: Array, extent: tuple[float, float, float, float]
) -> bytes:
    """Norms of BEV maps: a row a map, a column a state, one colour scale a row; the change by reactivation beside them.

    Args:
        rows: names of the rows.
        pictures: [X, Y] norms over channels, by ``<row>/<state>``.
        occupied: [X, Y] bool, the cells of the sample under an object; outlined.
        extent: x0, x1, y0, y1 (m) of the maps.
    """
    columns = (BEFORE, MASKED, REACTIVATED, _CHANGE, PRUNED, FINE_TUNED)
    figure = Figure(figsize=(2.5 * len(columns) + 1.4, 2.45 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, panels in zip(rows, grid, strict=True):
        # By reactivation alone: both maps miss the same sensor.
        change = pictures[f"{row}/{REACTIVATED}"] - pictures[f"{row}/{MASKED}"]
        shown = [change if state == _CHANGE else pictures[f"{row}/{state}"] for state in columns]
        # Percentiles: a few extreme cells would darken the whole row. `or 1.0`: a map of zeros has no range, and the
        # limits of a colour scale must differ.
        highest = max(float(np.percentile(picture, 99.5)) for picture in shown) or 1.0
        reach = float(np.percentile(np.abs(change), 99.5)) or 1.0
        for axes, state, picture in zip(panels, columns, shown, strict=True):
            look = (
                {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
                if state == _CHANGE
                else {"cmap": "magma", "vmin": 0.0, "vmax": highest}
            )
            # Maps are [X, Y], images [rows, columns] with rows upwards: transposed, x points to the right and y up.
            image = axes.imshow(picture.T, origin="lower", extent=extent, interpolation="nearest", **look)
            # Without a cell inside there is no level to draw, and matplotlib warns.
            if occupied.any():
                outline = "black" if state == _CHANGE else "cyan"
                axes.contour(occupied.T, levels=[0.5], colors=outline, linewidths=0.8, extent=extent)
            axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
            # Two scales a row: of the changes, and of the norms, beside the last picture.
            if state in (_CHANGE, FINE_TUNED):
                figure.colorbar(image, ax=axes, shrink=0.85).ax.tick_params(labelsize=7)
        name, _, masked = row.partition(" (")
        panels[0].set_ylabel(f"{name}\n({masked}", fontsize=10)
    for axes, state in zip(grid[0], columns, strict=True):
        axes.set_title("reactivated − masked" if state == _CHANGE else state, fontsize=10)
    return to_png(figure)


def short_names(groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Names without the common beginning of their group, without ``weight``, and cut at the front where too long.

    >>> short_names({"lidar": ["encoders.lidar.input.weight", "encoders.lidar.output.0.weight"]})
    {'encoders.lidar.input.weight': 'input', 'encoders.lidar.output.0.weight': 'output.0'}
    """
    found = {}
    for names in groups.values():
        parts = [name.removesuffix(".weight").split(".") for name in names]
        # A single name would be common to itself as a whole, and leave an empty text.
        common = (
            sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
            if len(names) > 1
            else 0
        )
        for name, levels in zip(names, parts, strict=True):
            short = ".".join(levels[common:])
            # The end tells layers apart. One character goes to the ellipsis.
            found[name] = short if len(short) <= LONGEST_NAME else f"…{short[1 - LONGEST_NAME :]}"
    return found
