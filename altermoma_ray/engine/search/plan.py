"""The plan of a search: everything that is decided before it starts, saved beside its trials."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from altermoma_ray.data.sampling import Split
from altermoma_ray.engine.scoring.indicators import ScoringJob, merged
from altermoma_ray.engine.search.driver import FILE
from altermoma_ray.engine.search.proposals import Grid, Proposals, Proposer
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.files import SpaceReference
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.trial import read_result
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import Figures, without_of
from altermoma_ray.places import Place, kept_in, read_from
from altermoma_ray.storage import Location
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.protocols import Part
from altermoma_ray.workloads.reference import WorkloadReference, upgraded

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
    data: dict[Split, str] = Field(default_factory=dict)
    """Fingerprints of the data that the search began on; empty until it begins, and in older plans."""
    lookahead: int = Field(default=0, ge=0)
    """How many segments of trials are proposed ahead of the results, see
    :class:`altermoma_ray.engine.search.proposals.Proposals`; 0 until the cluster is known."""

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
        return not is_taken(self.folder) and self._file.write_new(self._text().encode())

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
        plan, file = stored_fields(storage, name), _file_of(storage, name)
        try:
            # Searches of releases that knew one second gradient alone go on with that one.
            plan["space"].setdefault("published_gradient", "scoring-batches")
            plan = upgraded(plan)
            if "lag" in plan:  # its name in plans of earlier releases
                plan["lookahead"] = plan.pop("lag")
            was = plan["workload"]["storage"]  # the former place in plans of earlier releases
            if plan.get("space_reference"):
                plan["space"] = SpaceReference.model_validate(plan["space_reference"]).load(name)
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
            lookahead=self.lookahead,
            seed=self.seed,
            repeat=self.repeat,
        )


def stored_fields(storage: Location, name: str) -> dict[str, Any]:
    """A plan's file as it is, unchecked.

    Raises:
        UserError: there is no such search, or its file is no JSON object.
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
    """Where a search keeps its plan and its trials."""
    return storage.join("searches", name)


_NO_SEARCH = {FILE, ".search.json.claims"}
"""All that may be left in the folder of a search that died before its plan was saved: its name is free."""


def is_taken(folder: Location) -> bool:
    """Whether a folder is a search's, so that its name is no longer free."""
    return not {child.name for child in folder.children()} <= _NO_SEARCH
