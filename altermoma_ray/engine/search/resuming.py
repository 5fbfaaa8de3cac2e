"""Going on with an earlier search by its own plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from altermoma_ray.data.sampling import Split
from altermoma_ray.engine.search.driver import check_undriven
from altermoma_ray.engine.search.plan import SearchPlan, stored_fields
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
    """The plan of an earlier search, ready to go on::

        plan = resume_search(Location.parse("storage"), "nusc-1", {"trials": 8})

    Args:
        storage: the storage of the search.
        name: name of the search; None for the latest one.
        asked: options given again by the user, by the names of :func:`plan_search`.
        compares: whether a comparison is meant.
        told: reads the options of the command without a field in the plan, from the plan's trials.

    Raises:
        UserError: no search has the name, the search is of the other kind, another process drives the search, or an
            option differs from the plan.
    """
    kind, other, command = ("comparison", "search", "search") if compares else ("search", "comparison", "compare")
    names = [folder.name for folder in storage.join("searches").children() if folder.join("search.json").exists()]
    if name is not None and names:
        plan = SearchPlan.load(storage, name)
        if bool(plan.grid) != compares:
            raise UserError(f"{name!r} is a {other}; go on with it: python -m altermoma_ray.{command} --resume")
    else:
        found = latest_name(storage, names, compares=compares)
        if found is None:
            raise UserError(f"no {kind} to resume in {storage}; start one without --resume")
        plan = SearchPlan.load(storage, found)
    check_undriven(plan.folder)
    _refuse_changes(plan, asked, told(plan))
    return plan


def on_same_data(plan: SearchPlan) -> SearchPlan:
    """The plan with the present fingerprints of its data, which must not have changed since the search began.

    Scores and metrics can be compared only between trials on the same samples.

    Raises:
        UserError: the search has begun, and its data have changed since.
    """
    source = plan.workload.load().source()
    found = {split: source.fingerprint(split) for split in get_args(Split)}
    # A plan without fingerprints has not begun yet, or is of an earlier release: there is nothing to compare with.
    changed = [split for split, fingerprint in plan.data.items() if found[split] != fingerprint]
    if changed:
        raise UserError(
            f"the {' and '.join(changed)} data of search {plan.name!r} have changed since it began; put them back as "
            "they were to --resume it, or start a new search"
        )
    return plan.model_copy(update={"data": found})


def latest_name(storage: Location, names: Sequence[str], *, compares: bool | None = None) -> str | None:
    """The name of the search started last; None where no search is of the kind.

    Args:
        storage: the storage of the searches.
        names: names of the searches to choose from.
        compares: True for comparisons only, False for searches only; None takes both.

    Raises:
        UserError: a search's file is broken.
    """
    # The plans' files are read, but no plan is loaded: a search with a lost space file must not block the others.
    started: dict[str, float] = {}
    for name in names:
        plan = stored_fields(storage, name)
        if compares in (None, bool(plan.get("grid"))):
            started[name] = float(plan.get("created", 0))
    return max(started, key=lambda name: started[name], default=None)


def _refuse_changes(plan: SearchPlan, asked: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    planned = {**dict(plan), **plan.workload.asked(), **told}
    for option, value in asked.items():
        if option == "checkpoint":
            # Not the path, but the weights decide: a moved file is the same checkpoint.
            same = digest_of(plan.workload.load().unpruned(value)) == plan.checkpoint_hash
        elif option == "trials" and plan.repeat is False:
            # The plan holds the number of different settings where they are fewer than the trials asked for.
            same = number_of_settings(plan.space, plan.sizes, plan.drawn_sparsity, value) == plan.trials
        elif isinstance(value, list):
            # Another order of criteria or sparsities asks for the same trials.
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
    """The value of an option in a plan, in the words of a refusal."""
    name = f"--{option.replace('_', '-')}"
    if planned is None or planned is False or planned == []:
        return f"without {name}"
    if option in ("checkpoint", "space"):  # a hash, and a page of text
        return f"with another {name}"
    return f"with another {name} {','.join(map(str, planned)) if isinstance(planned, list) else planned}"
