"""The plan of a search: all decisions made before the search starts, saved beside its trials."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from altermoma_ray.data.sampling import Split
from altermoma_ray.engine.scoring.indicators import ScoringJob, merged
from altermoma_ray.engine.search.driver import FILE
from altermoma_ray.engine.search.proposals import Grid, Proposals, Proposer, has_rungs
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.files import SpaceReference
from altermoma_ray.engine.trials.budget import Budget
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import COSTS, LATENCY, MACS, Figures, without_of
from altermoma_ray.places import Place, kept_in, read_from
from altermoma_ray.storage import Location
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.protocols import ValidationPart
from altermoma_ray.workloads.reference import WorkloadReference, upgraded

Ablation = Literal["beta", "residual", "reactivation", "distillation"]
"""The part varied by an ablation: β of AlterMOMA, β of its residual variant, the making of indicators, or the weight of
distillation while fine-tuning."""
DEFAULTS_CHANGED = ("rungs", "rung_samples", "rung_statistics", "reduction", "patience", "published_gradient")
"""Fields of a search space with other defaults in earlier releases."""


class SearchPlan(BaseModel):
    """All decisions made before a search starts; saved, and read back by ``--resume``.

    Example::

        plan = SearchPlan.load(Location.parse("storage"), "nusc-1")
        plan.results()
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    workload: WorkloadReference
    """The model to prune, with its data and task."""
    validation_part: ValidationPart = "all"
    """The validation samples for the evaluation of trials."""
    checkpoint: Place
    """URI of the unpruned model, in storage."""
    checkpoint_hash: str
    sizes: dict[str, int]
    """Number of prunable weights in each group."""
    space: SerializeAsAny[SearchSpace]
    space_reference: SpaceReference | None = None
    """The file of a space with a class of its own; ``space`` holds the fields only."""
    objective: str
    sparsity: float = Field(ge=0, lt=1)
    trials: int = Field(gt=0)
    seed: int
    workers: int = Field(gt=0)
    """Number of Ray Train workers in one trial; 1 runs the trial in a reused actor."""
    gpus_per_worker: float = Field(ge=0)
    max_latency_ms: float | None = Field(default=None, gt=0)
    """Most milliseconds of every trial's model, predicted; None for no limit."""
    max_macs: int | None = Field(default=None, gt=0)
    """Most multiply-accumulate operations of every trial's model; None for no limit."""
    is_least_sparsity: bool = False
    """Whether trials with a limit prune ``sparsity`` at least; otherwise no more than the limit needs."""
    device: str = "cpu"
    """Device for which latency is predicted."""
    costs: Place | None = None
    """File of the model's cost table; None where no limit and no objective needs one."""
    save_every: float = Field(default=60.0, ge=0)
    """Seconds from one saved state of a trial to the next."""
    tracking_uri: Place | None = None
    """MLflow's address, without user name and password; None for the SQLite file in storage."""
    grid: tuple[TrialTask, ...] = ()
    """The trials of a comparison, all settled beforehand; empty for a search."""
    ablation: Ablation | None = None
    """The part of AlterMOMA varied by a comparison; None compares criteria."""
    created: float = Field(default_factory=time.time)
    """Time of the plan, in seconds since the epoch."""
    repeat: bool | None = None
    """Whether settings may be run again, see :class:`altermoma_ray.engine.search.proposals.Proposals`.

    None in older plans.
    """
    data: dict[Split, str] = Field(default_factory=dict)
    """Fingerprints of the data at the beginning of the search; empty before, and in older plans."""
    lookahead: int = Field(default=0, ge=0)
    """Number of segments of trials proposed ahead of the results, see
    :class:`altermoma_ray.engine.search.proposals.Proposals`; 0 until the cluster is known."""

    stops_early: bool | None = None
    """Whether trials stop at the space's rungs, see :class:`altermoma_ray.engine.search.proposals.Proposals`.

    None in older plans.
    """

    @property
    def has_rungs(self) -> bool:
        """Whether trials are evaluated at the space's rungs."""
        # Comparisons must measure every trial alike.
        return not self.grid and has_rungs(self.optimised, self.stops_early)

    @property
    def figures(self) -> Figures:
        """The figures measured for each trial."""
        workload = self.workload.load()
        # Of a search with a cost table alone: others have no such columns.
        priced = () if self.costs is None else COSTS if self.is_timed else (MACS,)
        metrics = (*workload.task.metrics, *priced)
        return Figures(metrics=metrics, groups=tuple(self.sizes), modalities=workload.modalities)

    @property
    def optimised(self) -> Objective:
        """The objective, with the directions of its metrics."""
        return Objective.parse(self.objective, self.figures)

    @property
    def budget(self) -> Budget:
        """The limits of every trial's costs."""
        # A drawn sparsity is a least one too: otherwise all trials of a Pareto search would lie at the limit.
        least = self.is_least_sparsity or self.optimised.searches_sparsity
        return Budget(max_latency_ms=self.max_latency_ms, max_macs=self.max_macs, is_beside_sparsity=least)

    @property
    def is_timed(self) -> bool:
        """Whether trials need a predicted latency; MACs alone need no measurement."""
        return self.max_latency_ms is not None or LATENCY.name in self.objective.split(",")

    @property
    def is_priced(self) -> bool:
        """Whether trials need predicted costs: for a limit, or as an objective."""
        return bool(self.budget) or any(metric in COSTS for metric in self.optimised.metrics)

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
        """Save the plan, and with the plan take the search's name.

        Returns:
            Whether the name was free; otherwise nothing is saved.
        """
        # The listing finds searches whose plan is lost. The new file decides between two beginning together.
        return not is_taken(self.folder) and self._file.write_new(self._text().encode())

    @property
    def _file(self) -> Location:
        return self.folder.join("search.json")

    def _text(self) -> str:
        # Places inside the storage are written relative to the storage, which may be moved or copied as a whole.
        return self.model_dump_json(indent=2, context=kept_in(self.storage))

    @classmethod
    def load(cls, storage: Location, name: str) -> SearchPlan:
        """Read the plan of a search back, also from storage moved since.

        Args:
            storage: the storage of the search, at its present place.
            name: name of the search.

        Raises:
            UserError: no search has the name, or the plan's file is broken.
        """
        plan, file = stored_fields(storage, name), _file_of(storage, name)
        try:
            # Searches of releases without these fields go on as they began.
            plan["space"].setdefault("published_gradient", "scoring-batches")
            plan["space"].setdefault("rung_statistics", 0)
            plan["space"].setdefault("patience", 0.0)
            plan = upgraded(plan)
            if "lag" in plan:  # the lookahead in plans of earlier releases
                plan["lookahead"] = plan.pop("lag")
            was = plan["workload"]["storage"]  # earlier releases wrote whole addresses below this storage
            if plan.get("space_reference"):
                # The file leaves fields to their defaults, which were others in earlier releases.
                kept = {field: plan["space"][field] for field in DEFAULTS_CHANGED}
                space = SpaceReference.model_validate(plan["space_reference"]).load(name)
                plan["space"] = space.model_copy(update={**kept, "rungs": tuple(kept["rungs"])})
            return cls.model_validate(plan, context=read_from(storage, was))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(file) from error

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
                # The requests known beforehand, of all trials together; each trial reads only its own part of them.
                **dict(self.space.wanted()),
            ),
            validation_part=self.validation_part,
            folder=str(self.folder),
            seed=self.seed,
            fine_tune_epochs=self.space.fine_tune_epochs,
            iterative_rounds=self.space.iterative_rounds,
            pruning_phase=self.space.pruning_phase,
            rungs=self.space.rungs if self.has_rungs else (),
            rung_samples=self.space.rung_samples,
            rung_statistics=self.space.rung_statistics,
            without=without_of(self.optimised.names),
            save_every=self.save_every,
            costs=self.costs,
            budget=self.budget,
        )

    def scoring_jobs(self) -> list[ScoringJob]:
        """The scoring jobs to run before the first trial."""
        # The trials of a comparison have seeds of their own, and each seed draws other scoring data.
        job = self.trial_job()
        return merged([job.scoring_of(task) for task in self.grid] if self.grid else [job.scoring])

    def results(self) -> list[TrialResult]:
        """The results of all trials which ended, or stopped at a rung, in the order of their numbers."""
        job = self.trial_job()
        return [result for number in range(self.trials) if (result := read_result(job, number)) is not None]

    def params(self) -> dict[str, Any]:
        """The decisions as flat names and values, without the space and without the data set's options.

        Returns:
            Parameters for the search's run in MLflow.
        """
        # MLflow refuses long values: the space and the grid would not fit.
        excluded = {"space", "space_reference", "sizes", "grid"}
        fields = self.model_dump(mode="json", exclude=excluded, context=kept_in(self.storage))
        reference = fields.pop("workload")
        asked = {name: value for name, value in (reference["options"] or {}).items() if not isinstance(value, dict)}
        return fields | asked | {"workload": self.workload.name, "dataset": self.dataset, "model": self.model}

    def left_out(self) -> dict[str, Any]:
        """Numbers of records missing in the data's index, by kind, as flat names and values; empty for whole data."""
        return {f"left_out/{kind}": number for kind, number in self.workload.load().left_out().items()}

    @property
    def drawn_sparsity(self) -> float | None:
        """The total sparsity of all trials; None where each trial draws its own."""
        return None if self.optimised.searches_sparsity else self.sparsity

    def proposer(self) -> Proposer:
        """A new source of the trials, beginning with the first one."""
        if self.grid:
            return Grid(self.grid)
        return Proposals(
            self.space,
            self.sizes,
            self.optimised,
            sparsity=self.sparsity,
            trials=self.trials,
            lookahead=self.lookahead,
            seed=self.seed,
            repeat=self.repeat,
            stops_early=self.stops_early,
        )


def stored_fields(storage: Location, name: str) -> dict[str, Any]:
    """The content of a plan's file, unchecked.

    Raises:
        UserError: no search has the name, or the plan's file is no JSON object.
    """
    file = _file_of(storage, name)
    if not file.exists():
        known = [folder.name for folder in storage.join("searches").children()]
        raise UserError(f"no search {name!r} to resume in {storage}; choose one of: {', '.join(known)}")
    try:
        fields = json.loads(file.read_bytes())
    except ValueError as error:
        raise _broken(file) from error
    if not isinstance(fields, dict):
        raise _broken(file)
    return fields


def _file_of(storage: Location, name: str) -> Location:
    return search_folder(storage, name).join("search.json")


def _broken(file: Location) -> UserError:
    return UserError(f"{file} is broken or of another release; start the search again elsewhere")


def search_folder(storage: Location, name: str) -> Location:
    """The folder of a search's plan and trials.

    >>> search_folder(Location.parse("storage"), "nusc-1").name
    'nusc-1'
    """
    return storage.join("searches", name)


_NO_SEARCH = {FILE, ".search.json.claims"}
"""The files of a search which died before its plan was saved; a folder with no others is free."""


def is_taken(folder: Location) -> bool:
    """Whether a folder belongs to a search already; its name is then no longer free."""
    return not {child.name for child in folder.children()} <= _NO_SEARCH
