"""From a user's request to the plan of a search: its parts checked against each other, its name taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SerializeAsAny
from rich.markup import escape
from torch import nn

from altermoma_ray.console import console
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
from altermoma_ray.workloads.protocols import Part
from altermoma_ray.workloads.reference import WorkloadReference
from altermoma_ray.workloads.workload import digest_of, modalities_of, sizes_of


class SearchRequest(BaseModel):
    """A search or comparison that a user asks for, before it is checked.

    >>> SearchRequest(workload=find_workload("nusc", "storage"), space=space, sparsity=0.85)    # doctest: +SKIP
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    workload: WorkloadReference
    """What is pruned."""
    space: SerializeAsAny[SearchSpace]
    """What varies."""
    space_file: Path | None = None
    """The file that defines the space; None for one of the project's own."""
    name: str | None = None
    """Of the search; None takes the next free ``<workload>-<number>``."""
    checkpoint: str | None = None
    """Path or URI of the weights to prune; None takes the workload's own."""
    objective: str | None = None
    """None takes the task's first metric. See :meth:`altermoma_ray.tracking.objective.Objective.parse`."""
    sparsity: float
    """The total sparsity, where it is not an objective."""
    trials: int = 8
    """How many to run; the plan has fewer where the space has fewer different settings."""
    repeat: bool = False
    """Run so many all the same, settings again with other seeds."""
    validation_part: Part = "all"
    seed: int = 0
    """Of everything drawn."""
    workers: int = 1
    """Ray Train workers of one trial."""
    gpus_per_worker: float = 0.0
    save_every: float = 60.0
    """Seconds after which a trial keeps its state again, to go on from when its process or node dies."""
    tracking_uri: str | None = None
    """MLflow's address; None for a SQLite file in storage."""
    grid: tuple[TrialTask, ...] = ()
    """The trials of a comparison, in place of a search's."""
    ablation: Ablation | None = None
    """What they vary of AlterMOMA; None if they compare criteria."""


def plan_search(request: SearchRequest) -> SearchPlan:
    """Check the parts of a request against each other and put the unpruned model into storage.

    Raises:
        UserError: a part is wrong, or does not go with another.
    """
    storage = request.workload.storage_location
    if request.name is not None:
        check_name(request.name)
    taken = [folder.name for folder in storage.join("searches").children() if is_taken(folder)]
    if request.name in taken:
        raise _name_taken(str(request.name), storage)
    workload = request.workload.load()
    batch_size = workload.recipe.batch_size
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
    totals = space.range_of("sparsity").ends if total is None else (total,)
    for share in sorted({task.setting.sparsity for task in request.grid}) or totals:
        _check_sparsity(share, sizes, layers=len(prunable_weights(model)))
    trials = len(request.grid) or request.trials
    if not request.grid and not request.repeat:
        trials = number_of_settings(space, sizes, total, trials)
    checkpoint, digest = _store(model, storage)
    same = {"workload", "sparsity", "repeat", "validation_part", "grid", "ablation"}
    same |= {"seed", "workers", "gpus_per_worker", "save_every"}
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
        tracking_uri=kept_uri(request.tracking_uri, storage),
    )


def _space_for(model: nn.Module, request: SearchRequest) -> SearchSpace:
    """The space that was asked for; one of the project's own without the criteria that the model cannot be scored by.

    Raises:
        UserError: a criterion that the user asked for needs more than the model offers.
    """
    if hasattr(model, "flow"):
        return request.space
    asked = {task.setting.criterion for task in request.grid} or set(request.space.criteria)
    lacking = [name for name in CRITERIA if name in asked and CRITERIA[name].needs_flow]
    if not lacking:
        return request.space
    if request.grid or request.space_file is not None:
        raise UserError(
            f"criterion {lacking[0]!r} needs a model with a method `flow`, which that of {request.workload.name} has "
            "not; leave the criterion out, or add the method (altermoma_ray.workloads.protocols describes it)"
        )
    console.print(f"[bold]criteria[/] without {', '.join(lacking)}: the model has no method `flow`")
    kept = tuple(name for name in request.space.criteria if name not in lacking)
    return request.space.model_copy(update={"criteria": kept})


def _kind_of(workload: str) -> str:
    """The beginning of a search's name that nobody chose: ``nusc``, or the module's or file's name."""
    origin = workload.rpartition(":")[0] or workload
    return origin.removesuffix(".py").rpartition(".")[2]


def begin_search(plan: SearchPlan, *, numbered: bool, is_free: Callable[[str], bool] = lambda name: True) -> SearchPlan:
    """Save a plan under a name of its own, however many searches begin in the storage at once.

    Args:
        plan: of a new search.
        numbered: whether its name was not asked for: then the next free number is taken.
        is_free: whether a name is free elsewhere too, where it is numbered.

    Returns:
        The plan as it was saved.

    Raises:
        UserError: the name that was asked for is taken.
    """
    while not ((not numbered or is_free(plan.name)) and plan.save_new()):
        if not numbered:
            raise _name_taken(plan.name, plan.storage)
        kind, _, number = plan.name.rpartition("-")
        plan = plan.model_copy(update={"name": f"{kind}-{int(number) + 1}"})
    return plan


def _name_taken(name: str, storage: Location) -> UserError:
    return UserError(f"search {name!r} is already in {storage}; --resume it or choose another --name")


def _check_sparsity(total: float, sizes: Mapping[str, int], *, layers: int) -> None:
    """Find out whether a total sparsity can be met when every layer keeps a weight."""
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


def _store(model: nn.Module, storage: Location) -> tuple[Location, str]:
    """Keep the unpruned model in storage, where every worker finds it, under the hash of its weights."""
    key = digest_of(model)
    file = storage.join("checkpoints", f"{key}.safetensors")
    if not file.exists():
        save_checkpoint(file, model, {})
    return file, key
