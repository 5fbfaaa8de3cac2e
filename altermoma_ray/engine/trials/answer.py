"""The answer to a budget before any training: which widths, at which predicted costs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from altermoma_ray.engine.scoring.costs import load_costs
from altermoma_ray.engine.trials.budget import costs_of, removed_by
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import LATENCY, MACS
from altermoma_ray.pruning.channels.couplings import kept_channels
from altermoma_ray.pruning.targets import OutOfReach


class Answer(BaseModel):
    """The model that a budget asks for, as predicted; JSON names the fields as they are named here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_latency_ms: float | None
    max_macs: int | None
    sparsity: float
    """Share of the prunable weights that go."""
    latency_ms: float | None
    """Predicted milliseconds from a sample to decoded outputs; None where only MACs are limited."""
    unpruned_ms: float | None
    """The same of the unpruned model, predicted too."""
    macs: int
    unpruned_macs: int
    device: str
    threads: int
    widths: dict[str, tuple[int, int]]
    """Channels before and after pruning, by layer; layers of unchanged width are left out."""


def answer(job: TrialJob, task: TrialTask) -> Answer:
    """Find the widths of a trial under its job's budget. The trial's scores are in storage; nothing is trained.

    Example::

        answer(job, task).widths["decoder.0"]    # (128, 72)

    Raises:
        UserError: no mask of these scores keeps the budget.
    """
    assert job.costs is not None
    try:
        units, masks = TrialRunner(job).decide(task)
    except OutOfReach as error:
        raise UserError(str(error)) from error
    channels, table = removed_by(units), load_costs(job.costs)
    kept = kept_channels(channels.couplings, masks)
    costs: dict[str, Any] = costs_of(job.costs, channels, masks)
    widths = {one.name: (one.channels, int(kept[one.name].sum())) for one in channels.couplings}
    return Answer(
        max_latency_ms=job.budget.max_latency_ms,
        max_macs=job.budget.max_macs,
        sparsity=masks.sparsity(),
        latency_ms=costs.get(LATENCY.name),
        unpruned_ms=table.latency_ms(table.unpruned) if LATENCY.name in costs else None,
        macs=int(costs[MACS.name]),
        unpruned_macs=table.macs(table.unpruned),
        device=table.device,
        threads=table.threads,
        widths={name: width for name, width in widths.items() if width[0] != width[1]},
    )
