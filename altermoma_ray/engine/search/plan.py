"""The plan of a search: everything that is decided before it starts, saved beside its trials."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny
from rich.markup import escape

from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.prepare import DATASETS
from altermoma_ray.data.nuscenes.source import DataSource
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.engine.scoring.indicators import ScoringJob, merged
from altermoma_ray.engine.search.driver import FILE
from altermoma_ray.engine.search.proposals import Grid, Proposals, Proposer
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.engine.space.files import SpaceReference, reference_to
from altermoma_ray.engine.training.recipes import recipe
from altermoma_ray.engine.trials.trial import TrialJob, TrialTask, read_result
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.config import configuration
from altermoma_ray.models.weights.load import load_weights
from altermoma_ray.places import Place, kept_in, read_from
from altermoma_ray.pruning import check_ratio, coverage, group_weights, prunable_weights
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.names import check_name
from altermoma_ray.tracking.mlflow.store import kept_uri
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult

Ablation = Literal["beta", "residual", "reactivation"]
"""What a comparison may vary: β of AlterMOMA, β of its residual variant, or how indicators are made."""


class SearchPlan(BaseModel):
    """Everything that is decided before a search starts; saved, and read back by ``--resume``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dataset: str
    model: str
    checkpoint: Place
    """URI of the unpruned model, in storage."""
    checkpoint_hash: str
    sizes: dict[str, int]
    """Prunable weights of each group."""
    source: DataSource
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
    def folder(self) -> Location:
        return search_folder(self.source.storage_location, self.name)

    @property
    def inputs(self) -> InputConfig:
        """What the model is fed."""
        return configuration(self.model).inputs

    def save(self) -> None:
        self._file.write_text(self._text())

    def save_new(self) -> bool:
        """Save the plan, and with it take the search's name, unless that is taken; tells whether it was free."""
        return not _is_taken(self.folder) and self._file.write_new(self._text().encode())

    @property
    def _file(self) -> Location:
        return self.folder.join("search.json")

    def _text(self) -> str:
        return self.model_dump_json(indent=2, context=kept_in(self.source.storage_location))

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
            was = plan["source"]["storage"]  # the former place in plans of earlier releases
            if plan.get("space_reference"):
                plan["space"] = SpaceReference.model_validate(plan["space_reference"]).load(name)
            return cls.model_validate(plan, context=read_from(storage, was))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is broken or of another release; start the search again elsewhere") from error

    def trial_job(self) -> TrialJob:
        return TrialJob(
            scoring=ScoringJob(
                source=self.source,
                checkpoint=self.checkpoint,
                checkpoint_hash=self.checkpoint_hash,
                scoring_batches=self.space.scoring_batches,
                batch_size=recipe(self.model).batch_size,
                micro_batch_size=recipe(self.model).micro_batch_size,
                seed=self.seed,
                **dict(self.space.wanted()),
            ),
            model=self.model,
            folder=str(self.folder),
            seed=self.seed,
            fine_tune_epochs=self.space.fine_tune_epochs,
            iterative_rounds=self.space.iterative_rounds,
            pruning_phase=self.space.pruning_phase,
            rungs=() if self.grid or Objective.parse(self.objective).is_pareto else self.space.rungs,
            rung_samples=self.space.rung_samples,
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
        """What was decided, as flat names and values: without the space, and what the data set's reader needs."""
        context = kept_in(self.source.storage_location)
        fields = self.model_dump(mode="json", exclude={"space", "space_reference", "sizes", "grid"}, context=context)
        source = fields.pop("source")
        return fields | {"dataroot": source["dataroot"], "version": source["version"]}

    def left_out(self) -> dict[str, Any]:
        """Records that the data's index does not hold, by kind, as flat names and values; empty for whole data."""
        return {f"left_out/{kind}": number for kind, number in self.source.index().left_out.items()}

    @property
    def drawn_sparsity(self) -> float | None:
        """The total sparsity of all trials; None where each draws its own."""
        return None if Objective.parse(self.objective).searches_sparsity else self.sparsity

    def proposer(self) -> Proposer:
        """Where the trials come from, from the first one on."""
        if self.grid:
            return Grid(self.grid)
        return Proposals(
            self.space,
            self.sizes,
            Objective.parse(self.objective),
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


SHIPPED = Path(__file__).parents[2] / "models" / "checkpoints" / "bevfusion-mit-toy.safetensors"
"""The checkpoint that comes with the project, for the synthetic toy set."""


def plan_search(
    *,
    name: str | None,
    dataset: str,
    source: DataSource,
    synthetic: bool,
    model: str | None = None,
    checkpoint: str | None = None,
    space: SearchSpace,
    space_file: Path | None = None,
    objective: str = "map",
    sparsity: float,
    trials: int,
    repeat: bool = False,
    seed: int = 0,
    workers: int = 1,
    gpus_per_worker: float = 0.0,
    save_every: float = 60.0,
    tracking_uri: str | None = None,
    grid: Sequence[TrialTask] = (),
    ablation: Ablation | None = None,
) -> SearchPlan:
    """Check a search's options against each other and put the unpruned model into storage.

    Args:
        name: of the search; None takes the next free ``<dataset>-<number>``.
        dataset: short name of the data set.
        source: its data.
        synthetic: whether that is the synthetic toy set, for which a checkpoint is shipped.
        model: named configuration; None for the toy on the synthetic set, else the published model.
        checkpoint: weights to prune; None for the shipped ones.
        space: what varies.
        space_file: that defines the space; None for one of the project's own.
        objective: see :meth:`altermoma_ray.tracking.objective.Objective.parse`.
        sparsity: the total sparsity, where it is not an objective.
        trials: how many to run; the plan has fewer where the space has fewer different settings.
        repeat: run so many all the same, settings again with other seeds.
        seed: of everything drawn.
        workers: Ray Train workers of one trial.
        gpus_per_worker: GPUs of each.
        save_every: seconds after which a trial keeps its state again, to go on from when its process or node dies.
        tracking_uri: MLflow's address; None for a SQLite file in storage.
        grid: the trials of a comparison, in place of a search's.
        ablation: what they vary of AlterMOMA; None if they compare criteria.

    Raises:
        UserError: an option is wrong, or does not go with another.
    """
    parsed = Objective.parse(objective)
    if name is not None:
        check_name(name)
    storage = source.storage_location
    taken = [folder.name for folder in storage.join("searches").children() if _is_taken(folder)]
    if name in taken:
        raise _name_taken(name, storage)
    config = configuration(model or ("bevfusion-mit-toy" if synthetic else "bevfusion-mit"))
    if checkpoint is None and not (synthetic and config.name == "bevfusion-mit-toy"):
        raise UserError(
            f"no weights for {config.name}: give --checkpoint FILE (released .pth or our .safetensors), "
            f"or train one with python -m altermoma_ray.train"
        )
    batch_size = recipe(config.name).batch_size
    if workers > batch_size:
        raise UserError(f"{workers} workers cannot share a batch of {batch_size} samples; take fewer --workers")
    weights = load_weights(Location.parse(SHIPPED if checkpoint is None else checkpoint), config)
    sizes = _sizes(weights)
    if notice := coverage(weights).notice():
        console.print(f"[yellow]not pruned[/]: {escape(notice)}")
    if not grid:
        space.check(sizes, None if parsed.searches_sparsity else sparsity)
    totals = space.range_of("sparsity").ends if parsed.searches_sparsity else (sparsity,)
    for total in sorted({task.setting.sparsity for task in grid}) or totals:
        _check_sparsity(total, sizes, layers=len(prunable_weights(weights)))
    if not grid and not repeat:
        trials = number_of_settings(space, sizes, None if parsed.searches_sparsity else sparsity, trials)
    stored, digest = _store(weights, storage)
    return SearchPlan(
        name=name or _free_name(f"{dataset}-compare" if grid else dataset, taken),
        dataset=DATASETS[dataset],
        model=config.name,
        checkpoint=str(stored),
        checkpoint_hash=digest,
        sizes=sizes,
        source=source,
        space=space,
        space_reference=reference_to(space, space_file),
        objective=objective,
        sparsity=sparsity,
        trials=len(grid) or trials,
        repeat=repeat,
        grid=tuple(grid),
        ablation=ablation,
        seed=seed,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        save_every=save_every,
        tracking_uri=kept_uri(tracking_uri, storage),
    )


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
            raise _name_taken(plan.name, plan.source.storage_location)
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


def _sizes(model: FusionModel) -> dict[str, int]:
    weights = prunable_weights(model)
    groups = group_weights(weights, FusionModel.group_of)
    return {group: sum(weights[name].numel() for name in names) for group, names in groups.items()}


def _store(model: FusionModel, storage: Location) -> tuple[Location, str]:
    """Keep the unpruned model in storage, where every worker finds it, under the hash of its weights."""
    key = digest_of(model)
    file = storage.join("checkpoints", f"{key}.safetensors")
    if not file.exists():
        save_checkpoint(file, model, {})
    return file, key


def digest_of(model: FusionModel) -> str:
    """Hash of a model's configuration and tensors, under which its checkpoint and indicators are kept."""
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
