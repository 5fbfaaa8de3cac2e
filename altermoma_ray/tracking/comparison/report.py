"""The files of a comparison: one Markdown page, a table of all trials, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from altermoma_ray.metrics import Figures
from altermoma_ray.storage import Location
from altermoma_ray.tracking.comparison.pictures import ablation_picture, comparison_picture, grid_picture
from altermoma_ray.tracking.comparison.statistics import Value, is_unpruned, only_varying, parameter
from altermoma_ray.tracking.comparison.tables import (
    ablation_markdown,
    comparison_csv,
    comparison_markdown,
    grid_markdown,
)
from altermoma_ray.tracking.result import TrialResult

AXES = {
    "beta": "β (α = 1)",
    "reactivation_steps": "B, reactivation steps",
    "reactivation_learning_rate": "reactivation learning rate",
    "reactivation_gradient": "data of the second gradient",
    "scoring_batches": "scoring batches",
    "norms": "normalisation layers while scoring",
    "normalisation": "indicators divided by their sums over",
    "distillation": "weight of distillation",
}
"""The parameters an ablation may vary, with their titles."""
GRID = ("reactivation_steps", "reactivation_learning_rate")


@dataclass(frozen=True)
class Report:
    """A comparison, written down."""

    text: str
    """Markdown."""
    files: dict[str, bytes]
    """The text again, the table of trials and the pictures, by file name."""


def comparison_report(results: Sequence[TrialResult], reference: Mapping[str, float], figures: Figures) -> Report:
    """Criteria side by side.

    Args:
        results: all trials.
        reference: metrics of the unpruned model.
        figures: what the trials are measured by.
    """
    text = comparison_markdown(results, reference, figures.columns)
    # Tables show all metrics, the picture the first one: readers compare criteria by one figure.
    picture = comparison_picture(results, reference, figures.columns[0])
    return _report(text, results, figures, {"comparison.png": picture})


def ablation_report(
    results: Sequence[TrialResult], reference: Mapping[str, float], base: Mapping[str, Value], figures: Figures
) -> Report:
    """One criterion with its parts varied, an axis at a time and, where both vary, B × learning rate.

    Args:
        results: all trials.
        reference: metrics of the unpruned model.
        base: the published value of every axis to report.
        figures: what the trials are measured by.
    """
    metrics = figures.columns
    tables: list[str] = []
    pictures: dict[str, bytes] = {}
    for axis in (axis for axis in AXES if axis in base):
        label = AXES[axis]
        trials = only_varying(results, (axis,), base)
        # An axis not asked for has its published value alone: a table of one row.
        if _values(trials, axis) > 1:
            tables.append(ablation_markdown(trials, axis, label, metrics, reference))
            pictures[f"{axis}.png"] = ablation_picture(trials, axis, label, metrics[0], reference)
    # The two belong together: more steps at a lower rate move the weights about as far.
    trials = only_varying(results, GRID, base)
    if all(axis in base and _values(trials, axis) > 1 for axis in GRID):
        labels = (AXES[GRID[0]], AXES[GRID[1]])
        tables.append(grid_markdown(trials, GRID, labels, metrics, reference))
        pictures["reactivation.png"] = grid_picture(trials, GRID, labels, metrics[0])
    return _report("\n\n".join(tables), results, figures, pictures)


def write_report(report: Report, folder: Location) -> None:
    """Write all files of a report into a folder."""
    for name, content in report.files.items():
        folder.join(name).write_bytes(content)


def _values(results: Sequence[TrialResult], axis: str) -> int:
    return len({parameter(result, axis) for result in results if not is_unpruned(result)})


def _report(text: str, results: Sequence[TrialResult], figures: Figures, pictures: Mapping[str, bytes]) -> Report:
    csv = comparison_csv(results, figures)
    # The table holds all trials, the failed ones too, so readers can recompute every mean.
    return Report(text, {"comparison.md": text.encode(), "trials.csv": csv.encode(), **pictures})
