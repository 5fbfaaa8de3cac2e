"""From a user's request to the plan of a search: its parts checked against each other, its name taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SerializeAsAny
from rich.markup import escape
from torch import nn

from altermoma_ray.console import console
from altermoma_ray.engine.scoring.units import SINGLE_WEIGHTS, bound_units, units_of
from altermoma_ray.engine.search.plan import Ablation, SearchPlan, is_taken
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.engine.space.files import reference_to
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import Figures
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.pruning import check_ratio, coverage, prunable_weights
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.names import check_name
from altermoma_ray.tracking.mlflow.store import kept_uri
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.workloads.protocols import ValidationPart
from altermoma_ray.workloads.reference import WorkloadReference
from altermoma_ray.workloads.workload import digest_of, modalities_of, sizes_of


class SearchRequest(BaseModel):
    """A user's request for a search or comparison, not checked yet.

    >>> SearchRequest(workload=find_workload("nusc", "storage"), space=space, sparsity=0.85)    # doctest: +SKIP
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    workload: WorkloadReference
    """The model to prune, with its data and task."""
    space: SerializeAsAny[SearchSpace]
    """The ranges of the search."""
    space_file: Path | None = None
    """The Python file of the space; None for a space of the project."""
    name: str | None = None
    """Name of the search; None takes the next free ``<workload>-<number>``."""
    checkpoint: str | None = None
    """Path or URI of the weights to prune; None takes the workload's own."""
    objective: str | None = None
    """The metrics to optimise, see :meth:`altermoma_ray.tracking.objective.Objective.parse`; None takes the task's
    first metric."""
    sparsity: float
    """The total sparsity, unless sparsity is an objective."""
    max_latency_ms: float | None = None
    """Most milliseconds of every trial's model."""
    max_macs: int | None = None
    """Most multiply-accumulate operations of every trial's model."""
    is_least_sparsity: bool = False
    """Whether trials with a limit prune ``sparsity`` at least; otherwise no more than the limit needs."""
    device: str = "cpu"
    """Device for which latency is predicted."""
    trials: int = 8
    """Number of trials; the plan has fewer where the space has fewer different settings."""
    repeat: bool = False
    """Whether to run the full number of trials in a small space, repeating settings with other seeds."""
    validation_part: ValidationPart = "all"
    seed: int = 0
    """Seed of all random draws."""
    workers: int = 1
    """Number of Ray Train workers in one trial."""
    gpus_per_worker: float = 0.0
    save_every: float = 60.0
    """Seconds from one saved state of a trial to the next; a trial goes on from this state if its process dies."""
    tracking_uri: str | None = None
    """MLflow's address; None for a SQLite file in storage."""
    grid: tuple[TrialTask, ...] = ()
    """The settled trials of a comparison; empty for a search."""
    ablation: Ablation | None = None
    """The part of AlterMOMA varied by a comparison; None for a comparison of criteria."""


def plan_search(request: SearchRequest) -> SearchPlan:
    """Check the parts of a request against each other and put the unpruned model into storage.

    Raises:
        UserError: a part of the request is wrong, or does not go with another.
    """
    # Cheap checks come first: the weights, loaded further down, may be large and far away.
    storage = request.workload.storage_location
    if request.name is not None:
        check_name(request.name)
    taken = [folder.name for folder in storage.join("searches").children() if is_taken(folder)]
    if request.name in taken:
        raise _name_taken(str(request.name), storage)
    workload = request.workload.load()
    batch_size = workload.recipe.batch_size
    # A worker without a sample would compute no gradient, while the others wait for one.
    if request.workers > batch_size:
        raise UserError(f"{request.workers} workers cannot share a batch of {batch_size} samples; take fewer --workers")
    model = workload.unpruned(request.checkpoint)
    space, sizes = _space_for(model, request), sizes_of(model)
    figures = Figures(metrics=workload.task.metrics, groups=tuple(sizes), modalities=modalities_of(model))
    objective = Objective.parse(request.objective, figures)
    if notice := coverage(model).notice():
        console.print(f"[yellow]not pruned[/]: {escape(notice)}")
    total = None if objective.searches_sparsity else request.sparsity
    if not request.grid:
        space.check(sizes, total)
    # A drawn sparsity is checked at the ends of its range: if they can be met, so can all values between.
    totals = space.range_of("sparsity").ends if total is None else (total,)
    for share in sorted({task.setting.sparsity for task in request.grid}) or totals:
        _check_sparsity(share, sizes, layers=len(prunable_weights(model)))
    trials = len(request.grid) or request.trials
    # Two trials of one setting and one seed would find the same.
    if not request.grid and not request.repeat:
        trials = number_of_settings(space, sizes, total, trials)
    checkpoint, digest = keep_model(model, storage)
    decided = {"space", "name", "objective", "checkpoint", "trials", "tracking_uri"}
    same = SearchRequest.model_fields.keys() & SearchPlan.model_fields.keys() - decided
    kind = _kind_of(request.workload.name)
    return SearchPlan(
        **{name: getattr(request, name) for name in same},
        space=space,
        name=request.name or _free_name(f"{kind}-compare" if request.grid else kind, taken),
        objective=",".join(objective.names),
        checkpoint=str(checkpoint),
        checkpoint_hash=digest,
        sizes=sizes,
        space_reference=reference_to(space, request.space_file),
        trials=trials,
        stops_early=True,
        tracking_uri=kept_uri(request.tracking_uri, storage),
    )


def prepare(plan: SearchPlan) -> None:
    """Prepare the data of a search, and find out whether its model has all units that its space may prune.

    Example::

        plan = plan_search(request)
        prepare(plan)
        run_search(plan, tracker, resume=False)

    Raises:
        UserError: the data cannot be prepared, the model cannot be traced, or a bound of widths names no layer.
    """
    workload = plan.workload.load()
    data = workload.source()
    data.prepare()
    names = [name for name in plan.space.granularities if name != SINGLE_WEIGHTS]
    if names:
        model, _ = workload.load(Location.parse(plan.checkpoint))
        # Before anything is scored: a trial would find the same mistake, when all scoring is paid for.
        for name in names:
            bound_units(units_of(name, plan.space.bounds), model, data)


def _space_for(model: nn.Module, request: SearchRequest) -> SearchSpace:
    """The requested space; a space of the project loses the criteria unable to score the model.

    Raises:
        UserError: a criterion chosen by the user needs a method of the model, which is missing.
    """
    if hasattr(model, "flow"):
        return request.space
    asked = {task.setting.criterion for task in request.grid} or set(request.space.criteria)
    lacking = [name for name in CRITERIA if name in asked and CRITERIA[name].needs_flow]
    if not lacking:
        return request.space
    # A user's own choice is refused, not shortened in silence.
    named = request.space_file is not None and "criteria" in request.space.model_fields_set
    if request.grid or named:
        raise UserError(
            f"criterion {lacking[0]!r} needs a model with a method `flow`, which that of {request.workload.name} has "
            "not; leave the criterion out, or add the method (altermoma_ray.workloads.protocols describes it)"
        )
    console.print(f"[bold]criteria[/] without {', '.join(lacking)}: the model has no method `flow`")
    kept = tuple(name for name in request.space.criteria if name not in lacking)
    return request.space.model_copy(update={"criteria": kept})


def _kind_of(workload: str) -> str:
    """The beginning of a default name for a search: ``nusc``, or the name of the workload's module or file."""
    origin = workload.rpartition(":")[0] or workload
    return origin.removesuffix(".py").rpartition(".")[2]


def begin_search(plan: SearchPlan, *, numbered: bool, is_free: Callable[[str], bool] = lambda name: True) -> SearchPlan:
    """Save a plan under a name of its own, even while other searches begin in the same storage.

    Example::

        plan = begin_search(plan_search(request), numbered=request.name is None)

    Args:
        plan: the plan of a new search.
        numbered: whether the name is a default one; the next free number is then taken.
        is_free: whether a default name is free elsewhere too, in MLflow for instance.

    Returns:
        The plan as saved.

    Raises:
        UserError: the name chosen by the user is taken.
    """
    # Saving is the test: of two searches with one name, only one can create the file. A look before would leave a gap.
    while not ((not numbered or is_free(plan.name)) and plan.save_new()):
        if not numbered:
            raise _name_taken(plan.name, plan.storage)
        kind, _, number = plan.name.rpartition("-")
        plan = plan.model_copy(update={"name": f"{kind}-{int(number) + 1}"})
    return plan


def _name_taken(name: str, storage: Location) -> UserError:
    return UserError(f"search {name!r} is already in {storage}; --resume it or choose another --name")


def _check_sparsity(total: float, sizes: Mapping[str, int], *, layers: int) -> None:
    """Check whether a total sparsity can be met while every layer keeps a weight."""
    check_ratio("sparsity", total)
    weights = sum(sizes.values())
    kept = weights - round(total * weights)
    if kept < layers:
        raise UserError(
            f"a total sparsity of {total} cannot be met: it keeps {kept} of {weights} weights, but each of the "
            f"{layers} layers must keep one; lower it"
        )


def _free_name(dataset: str, taken: Sequence[str]) -> str:
    number = 1
    while f"{dataset}-{number}" in taken:
        number += 1
    return f"{dataset}-{number}"


def keep_model(model: nn.Module, storage: Location) -> tuple[Location, str]:
    """Keep a model in storage, where every worker finds the file, under the hash of its weights.

    Example::

        file, digest = keep_model(workload.unpruned(), storage)

    Returns:
        The file, and the hash.
    """
    # Searches on the same weights share one file, and the scores stored under its hash.
    key = digest_of(model)
    file = storage.join("checkpoints", f"{key}.safetensors")
    if not file.exists():
        save_checkpoint(file, model, {}, plan=getattr(model, "channel_plan", {}))
    return file, key
