"""The record of a trial, written to storage by a worker and logged to MLflow by the driver."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

Status = Literal["finished", "stopped", "failed"]
"""``stopped``: early stopping ended the trial; its metrics come from its last evaluation."""


class _Record(BaseModel):
    # JSON has no NaN (a TP error of a class without matches is one): NaN travels as a string.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Evaluation(_Record):
    """Metrics measured while a trial ran, after ``step`` fine-tuning steps."""

    step: int
    metrics: dict[str, float]


class Histogram(_Record):
    """How many weights have a score in each bin; ``edges`` has one entry more than the counts."""

    edges: list[float]
    kept: list[int]
    pruned: list[int]

    @model_validator(mode="after")
    def _check_lengths(self) -> Histogram:
        # Bins lie between edges, so n bins have n + 1 edges, as numpy's and matplotlib's histograms do.
        if not len(self.edges) - 1 == len(self.kept) == len(self.pruned):
            sizes = f"{len(self.edges)} edges, {len(self.kept)} kept, {len(self.pruned)} pruned"
            raise ValueError(f"a histogram needs one edge more than its counts, but got {sizes}")
        return self


class TrialResult(_Record):
    """One trial, ended.

    >>> result = TrialResult(number=3, status="failed", reason="the loss is not finite at step 4", started=0, ended=9)
    >>> TrialResult.from_json(result.to_json()) == result
    True
    """

    number: int
    """0 is the paper's own configuration."""
    status: Status
    reason: str | None = None
    """Reason of a failure; required for a failed trial."""
    params: dict[str, str | float | int | bool | None] = {}
    """The setting chosen by the search."""
    metrics: dict[str, float] = {}
    """The last evaluation: ``map``, ``nds``, ``ap/<class>``, ``tp/<error>``; non-finite where not defined."""
    history: list[Evaluation] = []
    """Evaluations on the way, by step."""
    sparsity: dict[str, float] = {}
    """Share of zeros among the prunable weights: ``total``, and one entry a parameter group."""
    layer_sparsity: dict[str, float] = {}
    """The same by parameter name."""
    params_left: int | None = None
    """Prunable weights kept."""
    params_total: int | None = None
    """Prunable weights in all."""
    configuration: dict[str, Any] = {}
    """The resolved configuration, JSON types only."""
    histogram: dict[str, Histogram] = {}
    """Scores by parameter group."""
    seconds: dict[str, float] = {}
    """Wall time by stage: ``evaluate`` is the passes over validation samples, ``metric`` the task's metrics of them.
    Metrics may be computed beside the next trial."""
    started: float
    """Seconds since the epoch."""
    ended: float
    """Seconds since the epoch."""

    @model_validator(mode="after")
    def _check_reason(self) -> TrialResult:
        # Both ways: a reason beside figures would make readers doubt a good trial.
        if (self.status == "failed") != (self.reason is not None):
            raise ValueError(f"a failed trial, and only that, has a reason, but got {self.status=}, {self.reason=}")
        return self

    def to_json(self) -> str:
        # Indented, as people read the files of a trial in storage.
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> TrialResult:
        return cls.model_validate_json(text)
