"""The costs of a search's trials: the cost table, made before the first trial, and the champion's latency, measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

from altermoma_ray.engine.scoring.costs import channels_of, load_costs, measured_latency, stored_costs
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.space import PruningSetting
from altermoma_ray.engine.trials.budget import check_reach, removed_by
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import LATENCY, MACS
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.pruning.granularity import GRANULARITIES
from altermoma_ray.storage import Location

MEASURED = "latency.json"
"""File in a trial's folder: its latency as measured, beside the unpruned model's."""


def check_priced(granularities: Sequence[str], criteria: Sequence[str]) -> None:
    """Find out whether costs can be limited or searched with these choices.

    >>> check_priced(["channel"], ["snip"])

    Args:
        granularities: all must remove channels; others save neither time nor MACs.
        criteria: none may prune in rounds of its own, which are made for one sparsity before any cost is known.

    Raises:
        UserError: one of them does not go with costs.
    """
    for name in granularities:
        removed_by(GRANULARITIES[name])
    for name in criteria:
        if CRITERIA[name].needs == "masks":
            raise UserError(
                f"{name} prunes in rounds to a sparsity that is set beforehand, so that no limit of latency or MACs "
                "can set it; take another criterion, or a sparsity in place of the limit"
            )


def with_costs(plan: SearchPlan, setting: PruningSetting | None = None) -> SearchPlan:
    """The plan with its cost table, where the plan needs one; measured now if storage has none.

    Args:
        plan: whose data are prepared.
        setting: of the only trial; None takes the published setting of the plan's space.

    Raises:
        UserError: no mask keeps the plan's limits.
    """
    if not plan.is_priced:
        return plan
    workload = plan.workload.load()
    if plan.costs is None:
        model, _ = workload.load(Location.parse(plan.checkpoint))
        file = stored_costs(workload, model, plan.storage, device=plan.device, timed=plan.is_timed)
        plan = plan.model_copy(update={"costs": str(file)})
    if plan.budget:
        model, _ = workload.load(Location.parse(plan.checkpoint))
        drawn = plan.space.published(plan.drawn_sparsity)
        setting = setting or plan.space.setting(drawn, plan.sizes, plan.drawn_sparsity)
        # Before any scoring: a limit below the narrowest model would else fail every trial.
        check_reach(load_costs(str(plan.costs)), channels_of(workload, model, removed_by(setting.units)), plan.budget)
    return plan


def unpruned_costs(plan: SearchPlan) -> dict[str, float]:
    """The predicted costs of the unpruned model; empty for a search without costs."""
    if plan.costs is None:
        return {}
    table = load_costs(plan.costs)
    latency = {LATENCY.name: table.latency_ms(table.unpruned)} if plan.is_timed else {}
    return {**latency, MACS.name: float(table.macs(table.unpruned))}


def checked_latency(plan: SearchPlan, number: int) -> dict[str, float]:
    """The measured latency of a finished trial's model beside the unpruned model's, kept in the trial's folder.

    Args:
        plan: of a search with a cost table.
        number: of the trial.

    Returns:
        ``latency_ms`` and ``unpruned_ms``, medians of runs that take turns, and ``ratio``; empty where the device of
        the cost table is not on this machine.
    """
    folder = plan.trial_job().trial_folder(number)
    file = folder.join(MEASURED)
    if not file.exists():
        workload = plan.workload.load()
        pruned, _ = workload.load(folder.join("model.safetensors"))
        unpruned, _ = workload.load(Location.parse(plan.checkpoint))
        try:
            measured = measured_latency(workload, unpruned, pruned, plan.device)
        except UserError:
            return {}
        file.write_text(json.dumps(measured))
    found: dict[str, float] = json.loads(file.read_bytes())
    return found
