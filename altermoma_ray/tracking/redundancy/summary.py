"""A redundancy report's main figures on standard output."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from altermoma_ray.tracking.redundancy.records import INTACT, RedundancyReport

_WIDTH = 100


def print_summary(report: RedundancyReport) -> None:
    """Three short tables: groups, criteria, sensors."""
    # Off a terminal rich takes 80 columns and cuts figures off.
    console = Console(highlight=False, width=max(Console().width, _WIDTH))
    groups = [group.name for group in report.groups]
    rows = [
        (
            group.name,
            f"{group.weights:,}",
            "–" if group.spearman is None else f"{group.spearman:.2f}",
            f"{group.overlap:.2f} ({group.overlap_by_chance:.2f})",
            f"{group.shift:.2f}",
            f"{sum(layer.redundant for layer in report.layers_of(group.name))} of {len(report.layers_of(group.name))}",
        )
        for group in report.groups
    ]
    header = ("group", "weights", "Spearman\nDeCI, ReRI", "same highest\n(by chance)", "ReRI in\nother layers")
    _print(console, (*header, "redundant\nlayers"), rows)
    sparsities = [
        (removal.criterion, *(f"{removal.sparsity[name]:.3f}" for name in ("total", *groups)))
        for removal in report.removals
    ]
    _print(console, ("removes", "total", *groups), sparsities)
    # Each loss once, all sensors first, as measured.
    losses = list(dict.fromkeys(entry.lost for entry in report.sensors))
    figures = [(state, *(_cell(report, state, lost) for lost in losses)) for state in report.states()]
    names = ("all sensors" if lost == INTACT else f"{lost} lost" for lost in losses)
    _print(console, (" / ".join(report.titles.values()), *names), figures)


def _cell(report: RedundancyReport, state: str, lost: str) -> str:
    entry = report.sensor(state, lost)
    return "–" if entry is None else " / ".join(f"{value:.3f}" for value in entry.figures.values())


def _print(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        # The first column holds names, all others figures, whose points shall stand below one another.
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
