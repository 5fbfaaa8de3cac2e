"""Going on with a search that was started before, as it was planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from altermoma_ray.engine.search.driver import check_undriven
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import digest_of


def resume_search(
    storage: Location,
    name: str | None,
    asked: Mapping[str, Any] = MappingProxyType({}),
    *,
    compares: bool = False,
    told: Callable[[SearchPlan], Mapping[str, Any]] = lambda plan: {},
) -> SearchPlan:
    """The plan of a search that was started before.

    Args:
        storage: where it was started.
        name: of the search; None for the latest one.
        asked: options that the user gave again, by the names of :func:`plan_search`.
        compares: whether a comparison is meant.
        told: what a plan was started with, by options that are no field of it.

    Raises:
        UserError: there is no such search, it is of the other kind, another process drives it, or an option says
            something else than its plan.
    """
    kind, other, command = ("comparison", "search", "search") if compares else ("search", "comparison", "compare")
    names = [folder.name for folder in storage.join("searches").children() if folder.join("search.json").exists()]
    if name is not None and names:
        plans = [SearchPlan.load(storage, name)]
        if bool(plans[0].grid) != compares:
            raise UserError(f"{name!r} is a {other}; go on with it: python -m altermoma_ray.{command} --resume")
    else:
        plans = [plan for plan in (SearchPlan.load(storage, known) for known in names) if bool(plan.grid) == compares]
    if not plans:
        raise UserError(f"no {kind} to resume in {storage}; start one without --resume")
    plan = max(plans, key=lambda plan: plan.created)
    check_undriven(plan.folder)
    _refuse_changes(plan, asked, told(plan))
    return plan


def _refuse_changes(plan: SearchPlan, asked: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    planned = {**dict(plan), **plan.workload.asked(), **told}
    for option, value in asked.items():
        if option == "checkpoint":
            same = digest_of(plan.workload.load().unpruned(value)) == plan.checkpoint_hash
        elif option == "trials" and plan.repeat is False:  # the plan holds what is left of them
            same = number_of_settings(plan.space, plan.sizes, plan.drawn_sparsity, value) == plan.trials
        elif isinstance(value, list):
            same = set(planned[option]) == set(value)
        else:
            same = planned[option] == value
        if not same:
            kind = "comparison" if plan.grid else "search"
            raise UserError(
                f"{kind} {plan.name!r} was started "
                f"{_started_with(option, planned[option])}; to --resume it leave that option out, or start a new {kind}"
            )


def _started_with(option: str, planned: object) -> str:
    """An option of a plan, in the words of a refusal."""
    name = f"--{option.replace('_', '-')}"
    if planned is None or planned is False or planned == []:
        return f"without {name}"
    if option in ("checkpoint", "space"):  # a hash, and a page of text
        return f"with another {name}"
    return f"with another {name} {','.join(map(str, planned)) if isinstance(planned, list) else planned}"
