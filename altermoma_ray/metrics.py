"""A metric: a figure of a trial by its name, with its better direction.

Tasks list their metrics; objectives, leaderboards, pictures and tables take names, titles and directions from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

Direction = Literal["maximize", "minimize"]
"""Optuna's words."""
# Slashes group metrics on MLflow's pages.
_WITHOUT = "/without-"


@dataclass(frozen=True)
class Metric:
    """A figure of a trial, and its better direction.

    >>> loss = Metric("loss", "validation loss", "minimize")
    >>> loss.gain(0.25)
    -0.25
    >>> loss.without("radar")
    Metric(name='loss/without-radar', title='validation loss without radar', direction='minimize', is_column=False)
    """

    name: str
    """Key in the metrics of a trial's result."""
    title: str
    """Text in tables, pictures and messages."""
    direction: Direction = "maximize"
    is_column: bool = True
    """Whether the leaderboard has a column for the metric; one of the many figures of single classes has none."""

    @property
    def sign(self) -> int:
        """1 where a greater value is better, else -1."""
        return 1 if self.direction == "maximize" else -1

    def gain(self, value: float) -> float:
        """The value, turned for more to be better; −inf where the value is no finite number."""
        # NaN compares False with every number and leaves a sort in disorder: a broken trial is the worst instead.
        return self.sign * value if math.isfinite(value) else -math.inf

    def without(self, modality: str) -> Metric:
        """The same metric, measured while a modality is masked."""
        return replace(
            self,
            # No column: one for each modality would double the tables.
            name=f"{self.name}{_WITHOUT}{modality}",
            title=f"{self.title} without {modality}",
            is_column=False,
        )


SPARSITY = Metric("sparsity", "sparsity")
"""The share of removed weights: the one metric of every search."""
LATENCY = Metric("latency", "latency (ms)", "minimize")
"""Predicted milliseconds from a sample to decoded outputs, of searches with a cost table."""
MACS = Metric("macs", "MACs", "minimize")
"""Multiply-accumulate operations of one sample, of searches with a cost table."""
COSTS = (LATENCY, MACS)
"""The metrics of a pruned model's widths alone; fine-tuning does not change them."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All metrics of a search's trials; kept with the search, whose leaderboard then needs no model.

    >>> metric = Metric("loss", "loss", "minimize")
    >>> figures = Figures(metrics=(metric,), groups=("radar", "fusion"), modalities=("radar",))
    >>> figures.find("loss/without-radar").title
    'loss without radar'
    >>> Figures.from_json(figures.to_json()) == figures
    True
    """

    metrics: tuple[Metric, ...] = ()
    """Of the task; the first is the default objective."""
    groups: tuple[str, ...] = ()
    """Parameter groups, whose sparsity is shown."""
    modalities: tuple[str, ...] = ()
    """Modalities to be masked."""

    @property
    def columns(self) -> tuple[Metric, ...]:
        """The metrics with a column in tables."""
        return tuple(metric for metric in self.metrics if metric.is_column)

    def led_by(self, metrics: Iterable[Metric]) -> Figures:
        """The same figures with some metrics first, each of them a column.

        >>> figures = Figures(metrics=(Metric("map", "mAP"), Metric("nds", "NDS")))
        >>> [metric.name for metric in figures.led_by([Metric("nds", "NDS")]).columns]
        ['nds', 'map']
        """
        first = tuple(replace(metric, is_column=True) for metric in metrics)
        names = {metric.name for metric in first}
        return replace(self, metrics=(*first, *(metric for metric in self.metrics if metric.name not in names)))

    def find(self, name: str) -> Metric | None:
        """The metric of a name: the task's, the same without a modality, ``sparsity`` or a cost; None where unknown."""
        # SPARSITY last: a task's own metric of this name gives way to the one which every search measures.
        known = {metric.name: metric for metric in (*self.metrics, SPARSITY, *COSTS)}
        # Derived, not listed: each metric exists once more for every modality.
        whole, found, modality = name.partition(_WITHOUT)
        if found and whole in known and known[whole] not in (SPARSITY, *COSTS) and modality in self.modalities:
            return known[whole].without(modality)
        return known.get(name)

    def offered(self) -> str:
        """The names of all metrics, in words; of many with a common beginning only the beginning."""
        names = [metric.name for metric in self.metrics if "/" not in metric.name]
        # A detection task has a metric for every class and distance: a message with all would fill the screen.
        kinds = dict.fromkeys(metric.name.split("/")[0] for metric in self.metrics if "/" in metric.name)
        without = ["METRIC/without-MODALITY"] if self.modalities else []
        common = [metric.name for metric in (SPARSITY, *COSTS)]
        return ", ".join([*names, *common, *(f"{kind}/..." for kind in kinds), *without])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Figures:
        """Read the text of :meth:`to_json` back."""
        fields = json.loads(text)
        # JSON knows no tuples, and two frozen records differ if one holds lists.
        metrics = tuple(Metric(**metric) for metric in fields["metrics"])
        return cls(metrics=metrics, groups=tuple(fields["groups"]), modalities=tuple(fields["modalities"]))


def without_of(names: Iterable[str]) -> tuple[str, ...]:
    """The modalities masked in the measurement of metrics of these names, each once.

    >>> without_of(["map", "map/without-camera"])
    ('camera',)
    """
    parts = (name.partition(_WITHOUT) for name in names)
    return tuple(dict.fromkeys(modality for _, found, modality in parts if found))
