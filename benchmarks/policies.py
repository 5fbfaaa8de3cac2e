"""Ways to stop trials early, told apart by ``benchmarks.replay`` on a table of whole trials.

A policy is a ladder of rungs and a rule for who goes on. The rule is the product's own (:class:`Halving`), given the
gains as they were measured, or corrected for what is known of a trial's setting (:class:`Correction`). The last
evaluation of a trial may end before its last sample (:class:`Paired`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from altermoma_ray.engine.search.stopping import Halving

STATISTICS_STEPS = 4 / 3
"""Price of new normalisation statistics in fine-tuning steps: four batches forward, of which a step's pass backward
would cost twice as much again."""


@dataclass(frozen=True)
class Rung:
    """A place where trials stop: after ``step`` steps, evaluated on ``samples`` samples."""

    step: int
    samples: int
    kind: str = "own"
    """The weights and statistics evaluated, see :func:`benchmarks.trial_table.table`."""

    @property
    def progress(self) -> int:
        """Steps of the trial's own fine-tuning that are done by then; those of a sprint are lost."""
        return self.step if self.kind in ("own", "renewed") else 0

    def price(self, done: int) -> float:
        """Steps from ``done`` steps of the trial's own fine-tuning to this rung, and for its statistics."""
        return self.step - done + (0.0 if self.kind == "own" else STATISTICS_STEPS)


@dataclass(frozen=True)
class Trial:
    """A trial of the table: all that any policy may learn of it."""

    setting: Mapping[str, Any]
    subsets: Mapping[tuple[int, str], Mapping[int, float]]
    """By step and kind: the objective of the first samples, by their number."""
    scenes: Mapping[tuple[int, str], np.ndarray]
    """The same, of each scene alone."""

    @property
    def steps(self) -> int:
        return max(step for step, _ in self.subsets)

    @property
    def size(self) -> int:
        """Number of validation samples."""
        return max(self.subsets[self.steps, "own"])

    @property
    def scene_count(self) -> int:
        """Number of validation scenes."""
        return len(self.scenes[self.steps, "own"])

    @property
    def final(self) -> float:
        return self.subsets[self.steps, "own"][self.size]

    def at(self, rung: Rung) -> float:
        """The objective at a rung; −inf where it is no number."""
        known = self.subsets[rung.step, rung.kind]
        value = known[min(rung.samples, max(known))]
        return value if math.isfinite(value) else -math.inf


def read_table(file: Path) -> list[Trial]:
    """The trials of a table which ran to their ends."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in pq.read_table(file).to_pylist():
        rows.setdefault(row["trial"], []).append(row)
    trials = [
        Trial(
            json.loads(own[0]["setting"]),
            {(r["step"], r["kind"]): dict(zip(r["subset_sizes"], r["subset_values"], strict=True)) for r in own},
            {(r["step"], r["kind"]): np.array(r["scene_values"]) for r in own},
        )
        for own in rows.values()
    ]
    longest = max(trial.steps for trial in trials)
    return [trial for trial in trials if trial.steps == longest and math.isfinite(trial.final)]


class Correction:
    """What a trial's end will be, from its gain at a rung and its setting, learnt from the trials that have ended.

    A ridge regression of the end on the gain, the schedule, and the logarithm of the learning rate and its square: the
    settings whose curves rise late, which a rung alone puts too low.

    Args:
        least: number of ended trials before anything is corrected.
        strength: of the ridge, for features of unit variance.
    """

    def __init__(self, least: int = 6, strength: float = 1.0) -> None:
        self._least, self._strength = least, strength

    def __call__(self, trial: Trial, rung: Rung, ended: Sequence[Trial]) -> float:
        """The predicted end of a trial; its gain at the rung while too few trials have ended."""
        gain = trial.at(rung)
        known = [other for other in ended if math.isfinite(other.at(rung))]
        if len(known) < self._least or not math.isfinite(gain):
            return gain
        features = np.array([self._features(other, rung) for other in known])
        # The gain itself keeps the weight 1: the others explain what is left between the rung and the end.
        left = np.array([other.final - other.at(rung) for other in known])
        mean, spread = features.mean(0), features.std(0) + 1e-9
        scaled = (features - mean) / spread
        weights = np.linalg.solve(
            scaled.T @ scaled + self._strength * np.eye(scaled.shape[1]), scaled.T @ (left - left.mean())
        )
        own = (np.array(self._features(trial, rung)) - mean) / spread
        return float(gain + left.mean() + own @ weights)

    def _features(self, trial: Trial, rung: Rung) -> list[float]:
        rate = math.log(float(trial.setting["learning_rate"]))
        schedules = ("one-shot", "linear", "cubic", "exponential")
        return [trial.at(rung), rate, rate**2, *(float(trial.setting["schedule"] == name) for name in schedules)]


@dataclass(frozen=True)
class Paired:
    """Ends a trial's last evaluation as soon as it is worse than the best trial on the same scenes.

    Wilcoxon's signed-rank test on the differences scene by scene, as Optuna's ``WilcoxonPruner`` has it.
    """

    p: float = 0.1
    least: int = 8
    every: int = 4

    def samples_read(self, trial: Trial, best: Trial | None, order: np.ndarray) -> int:
        """How many samples of the last evaluation are read before it ends; ``order`` is that of the scenes."""
        if best is None:
            return trial.size
        key = trial.steps, "own"
        differences = (trial.scenes[key] - best.scenes[key])[order]
        for read in range(self.least, len(order), self.every):
            part = differences[:read]
            if part.mean() < 0 and np.any(part) and stats.wilcoxon(part, alternative="less").pvalue < self.p:
                return round(read * trial.size / len(order))
        return trial.size


@dataclass(frozen=True)
class Policy:
    """Rungs, and who goes on from them."""

    name: str
    rungs: tuple[Rung, ...] = ()
    reduction: float = 3.0
    correction: Correction | None = None
    paired: Paired | None = None
    shared_steps: int = 0
    """Steps of a fine-tuning shared by all trials, paid once."""
    patience: float = 0.0
    """Share of a rung's trials that must be there before any goes on."""

    def stopping(self, trials: int) -> Halving:
        """The rule for who goes on in a search of so many trials."""
        return Halving(len(self.rungs), self.reduction, trials=trials, patience=self.patience)

    def gain(self, trial: Trial, rung: Rung, ended: Sequence[Trial]) -> float:
        """The figure by which trials at a rung are compared."""
        return trial.at(rung) if self.correction is None else self.correction(trial, rung, ended)
