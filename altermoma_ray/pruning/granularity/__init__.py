"""The units of pruning behind one interface; a new granularity is a file here and a line in the table below."""

from __future__ import annotations

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.granularity.channel import Channel
from altermoma_ray.pruning.granularity.granularity import AnyModule, Cost, Granularity, Plan
from altermoma_ray.pruning.granularity.n_of_m import NofM
from altermoma_ray.pruning.granularity.weight import Weight

GRANULARITIES: dict[str, Granularity] = {"weight": Weight(), "channel": Channel(), "n_of_m": NofM()}
"""Every granularity by its name."""


def replay(model: AnyModule, plan: Plan) -> AnyModule:
    """Give an unpruned model the architecture of a plan, by the granularity of the plan.

    Args:
        model: of the architecture before pruning; may be changed.
        plan: a result of :meth:`Granularity.plan`; an empty one leaves the model unchanged.

    Raises:
        UserError: no granularity here has the plan's name, or the plan is none of its own.
    """
    if not plan:
        return model
    # Read from storage, the name may be any JSON value: str lets the message below show the value.
    name = str(plan.get("granularity"))
    if name not in GRANULARITIES:
        raise UserError(f"no granularity {name!r} is known, only {', '.join(GRANULARITIES)}")
    return GRANULARITIES[name].replay(model, plan)


__all__ = ["GRANULARITIES", "Channel", "Cost", "Granularity", "NofM", "Plan", "Weight", "replay"]
