"""A robustness report: its figures, as a table for a reader and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

UNPRUNED = "unpruned"
"""The label of the unpruned model."""
AS_IS = "as is"
"""The name of the condition in which nothing fails."""
_WIDTH = 100


class Measured(BaseModel):
    """One model under one condition."""

    # Metrics may be NaN, which JSON does not have: NaN travels as a string.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    model: str
    """Label of the model."""
    condition: str
    """Name of the condition."""
    figures: dict[str, float]
    """By the names of the report's metrics."""


class RobustnessReport(BaseModel):
    """The figures of all models under all conditions.

    >>> report = RobustnessReport(
    ...     dataset="own",
    ...     model="two-branch",
    ...     validation_part="all",
    ...     samples=8,
    ...     titles={"error": "squared error"},
    ...     models={"unpruned": "", "pruned-1": "storage/pruned"},
    ...     conditions={"as is": "as is", "without-radar": "radar lost"},
    ...     measured=[Measured(model="unpruned", condition="as is", figures={"error": 0.5})],
    ... )
    >>> print(report.csv().decode().splitlines()[1])
    unpruned,as is,0.5
    >>> report.metrics()
    {'unpruned/as-is/error': 0.5}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    model: str
    """Name of the workload's model."""
    validation_part: str
    samples: int
    """Number of validation samples."""
    titles: dict[str, str]
    """Titles of the metrics by name, the default objective first."""
    models: dict[str, str]
    """What the user called each model, by label; empty for the unpruned one."""
    conditions: dict[str, str]
    """Titles of the conditions by name, :data:`AS_IS` first."""
    measured: list[Measured]

    def csv(self) -> bytes:
        """One row for each model and condition, one column for each metric."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", "condition", *self.titles])
        for one in self.measured:
            label = self.models[one.model] or one.model
            writer.writerow([label, self.conditions[one.condition], *(one.figures[name] for name in self.titles)])
        return text.getvalue().encode()

    def metrics(self) -> dict[str, float]:
        """All figures under names that MLflow takes: ``MODEL/CONDITION/METRIC``."""
        return {
            f"{one.model}/{one.condition.replace(' ', '-')}/{name}": value
            for one in self.measured
            for name, value in one.figures.items()
        }

    def print(self) -> None:
        """A table of conditions (rows) and models (columns) on standard output."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column(" / ".join(self.titles.values()))
        for label, reference in self.models.items():
            table.add_column(reference or label, justify="right", overflow="fold")
        found = {(one.model, one.condition): one.figures for one in self.measured}
        for name, title in self.conditions.items():
            cells = (found.get((label, name)) for label in self.models)
            table.add_row(title, *("–" if figures is None else _cell(figures, self.titles) for figures in cells))
        # Off a terminal rich takes 80 columns and cuts figures off.
        Console(highlight=False, width=max(Console().width, _WIDTH)).print(table)


def _cell(figures: dict[str, float], titles: dict[str, str]) -> str:
    return " / ".join(f"{figures[name]:.3f}" for name in titles)
