"""The plan of a search: everything that is decided before it starts, saved beside its trials."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny
from rich.markup import escape
from torch import nn

from altermoma_ray.console import console
from altermoma_ray.engine.scoring.indicators import ScoringJob, merged
from altermoma_ray.engine.search.driver import FILE
from altermoma_ray.engine.search.proposals import Grid, Proposals, Proposer
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.engine.space.files import SpaceReference, reference_to
from altermoma_ray.engine.trials.trial import TrialJob, TrialTask, read_result
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import Figures, without_of
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.places import Place, kept_in, read_from
from altermoma_ray.pruning import check_ratio, coverage, prunable_weights
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.names import check_name
from altermoma_ray.tracking.mlflow.store import kept_uri
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.protocols import Part
from altermoma_ray.workloads.reference import WorkloadReference, upgraded
from altermoma_ray.workloads.workload import digest_of, modalities_of, sizes_of

Ablation = Literal["beta", "residual", "reactivation"]
"""What a comparison may vary: β of AlterMOMA, β of its residual variant, or how indicators are made."""


class SearchPlan(BaseModel):
    """Everything that is decided before a search starts; saved, and read back by ``--resume``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    workload: WorkloadReference
    """What is pruned."""
    validation_part: Part = "all"
    """The validation samples that trials are evaluated on."""
    checkpoint: Place
    """URI of the unpruned model, in storage."""
    checkpoint_hash: str
    sizes: dict[str, int]
    """Prunable weights of each group."""
    space: SerializeAsAny[SearchSpace]
    space_reference: SpaceReference | None = None
    """Where to find a space that is of a class of its own; its fields alone are in ``space``."""
    objective: str
    sparsity: float = Field(ge=0, lt=1)
    trials: int = Field(gt=0)
    seed: int
    workers: int = Field(gt=0)
    """Ray Train workers of one trial; 1 runs it in a reused actor."""
    gpus_per_worker: float = Field(ge=0)
    save_every: float = Field(default=60.0, ge=0)
    """Seconds after which a trial keeps its state again."""
    tracking_uri: Place | None = None
    """MLflow's address, without user name and password; None for the SQLite file in storage."""
    grid: tuple[TrialTask, ...] = ()
    """The trials of a comparison, all settled beforehand; empty for a search."""
    ablation: Ablation | None = None
    """What a comparison varies of AlterMOMA; None compares criteria."""
    created: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    repeat: bool | None = None
    """Whether settings may be run again, see :class:`altermoma_ray.engine.search.proposals.Proposals`.

    None in older plans.
    """
    lag: int = Field(default=0, ge=0)
    """See :mod:`altermoma_ray.engine.search.proposals`; 0 until the cluster is known."""

    @property
    def figures(self) -> Figures:
        """What the trials are measured by."""
        workload = self.workload.load()
        return Figures(metrics=tuple(workload.task.metrics), groups=tuple(self.sizes), modalities=workload.modalities)

    @property
    def optimised(self) -> Objective:
        """The objective, with the directions of its metrics."""
        return Objective.parse(self.objective, self.figures)

    @property
    def storage(self) -> Location:
        return self.workload.storage_location

    @property
    def folder(self) -> Location:
        return search_folder(self.storage, self.name)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.workload.load().dataset

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.workload.load().name

    def save(self) -> None:
        self._file.write_text(self._text())

    def save_new(self) -> bool:
        """Save the plan, and with it take the search's name, unless that is taken; tells whether it was free."""
        return not _is_taken(self.folder) and self._file.write_new(self._text().encode())

    @property
    def _file(self) -> Location:
        return self.folder.join("search.json")

    def _text(self) -> str:
        return self.model_dump_json(indent=2, context=kept_in(self.storage))

    @classmethod
    def load(cls, storage: Location, name: str) -> SearchPlan:
        """Read a search's plan back, in the storage where it lies now.

        Raises:
            UserError: there is no such search, or its file is broken.
        """
        file = search_folder(storage, name).join("search.json")
        if not file.exists():
            known = [folder.name for folder in storage.join("searches").children()]
            raise UserError(f"no search {name!r} to resume in {storage}; choose one of: {', '.join(known)}")
        try:
            plan = json.loads(file.read_bytes())
            # Searches of releases that knew one second gradient alone go on with that one.
            plan["space"].setdefault("published_gradient", "scoring-batches")
            plan = upgraded(plan)
            was = plan["workload"]["storage"]  # the former place in plans of earlier releases
            if plan.get("space_reference"):
                plan["space"] = SpaceReference.model_validate(plan["space_reference"]).load(name)
            return cls.model_validate(plan, context=read_from(storage, was))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is broken or of another release; start the search again elsewhere") from error

    def trial_job(self) -> TrialJob:
        recipe = self.workload.load().recipe
        return TrialJob(
            scoring=ScoringJob(
                workload=self.workload,
                checkpoint=self.checkpoint,
                checkpoint_hash=self.checkpoint_hash,
                scoring_batches=self.space.scoring_batches,
                batch_size=recipe.batch_size,
                micro_batch_size=recipe.micro_batch_size,
                seed=self.seed,
                **dict(self.space.wanted()),
            ),
            validation_part=self.validation_part,
            folder=str(self.folder),
            seed=self.seed,
            fine_tune_epochs=self.space.fine_tune_epochs,
            iterative_rounds=self.space.iterative_rounds,
            pruning_phase=self.space.pruning_phase,
            rungs=() if self.grid or self.optimised.is_pareto else self.space.rungs,
            rung_samples=self.space.rung_samples,
            without=without_of(self.optimised.names),
            save_every=self.save_every,
        )

    def scoring_jobs(self) -> list[ScoringJob]:
        """All that has to be scored before the first trial."""
        job = self.trial_job()
        return merged([job.scoring_of(task) for task in self.grid] if self.grid else [job.scoring])

    def results(self) -> list[TrialResult]:
        """The results of all trials that ended, or stopped at a rung, by number."""
        job = self.trial_job()
        return [result for number in range(self.trials) if (result := read_result(job, number)) is not None]

    def params(self) -> dict[str, Any]:
        """What was decided, as flat names and values: without the space, and how the data set is read."""
        excluded = {"space", "space_reference", "sizes", "grid"}
        fields = self.model_dump(mode="json", exclude=excluded, context=kept_in(self.storage))
        reference = fields.pop("workload")
        asked = {name: value for name, value in (reference["options"] or {}).items() if not isinstance(value, dict)}
        return fields | asked | {"workload": self.workload.name, "dataset": self.dataset, "model": self.model}

    def left_out(self) -> dict[str, Any]:
        """Records that the data's index does not hold, by kind, as flat names and values; empty for whole data."""
        return {f"left_out/{kind}": number for kind, number in self.workload.load().left_out().items()}

    @property
    def drawn_sparsity(self) -> float | None:
        """The total sparsity of all trials; None where each draws its own."""
        return None if self.optimised.searches_sparsity else self.sparsity

    def proposer(self) -> Proposer:
        """Where the trials come from, from the first one on."""
        if self.grid:
            return Grid(self.grid)
        return Proposals(
            self.space,
            self.sizes,
            self.optimised,
            sparsity=self.sparsity,
            trials=self.trials,
            lag=self.lag,
            seed=self.seed,
            repeat=self.repeat,
        )


def search_folder(storage: Location, name: str) -> Location:
    """Where a search keeps its plan and its trials."""
    return storage.join("searches", name)


_NO_SEARCH = {FILE, ".search.json.claims"}
"""All that may be left in the folder of a search that died before its plan was saved: its name is free."""


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
    space, storage = request.space, request.workload.storage_location
    if request.name is not None:
        check_name(request.name)
    taken = [folder.name for folder in storage.join("searches").children() if _is_taken(folder)]
    if request.name in taken:
        raise _name_taken(str(request.name), storage)
    workload = request.workload.load()
    batch_size = workload.recipe.batch_size
    if request.workers > batch_size:
        raise UserError(f"{request.workers} workers cannot share a batch of {batch_size} samples; take fewer --workers")
    model = workload.unpruned(request.checkpoint)
    sizes = sizes_of(model)
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
    same = {"workload", "space", "sparsity", "repeat", "validation_part", "grid", "ablation"}
    same |= {"seed", "workers", "gpus_per_worker", "save_every"}
    kind = _kind_of(request.workload.name)
    return SearchPlan(
        **{name: getattr(request, name) for name in same},
        name=request.name or _free_name(f"{kind}-compare" if request.grid else kind, taken),
        objective=",".join(objective.names),
        checkpoint=str(checkpoint),
        checkpoint_hash=digest,
        sizes=sizes,
        space_reference=reference_to(space, request.space_file),
        trials=trials,
        tracking_uri=kept_uri(request.tracking_uri, storage),
    )


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


def _is_taken(folder: Location) -> bool:
    return not {child.name for child in folder.children()} <= _NO_SEARCH


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
