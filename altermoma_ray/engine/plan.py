"""The plan of a search: everything that is decided before it starts, saved beside its trials."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from altermoma_ray.engine.dataset import DATASETS
from altermoma_ray.engine.proposals import Objective
from altermoma_ray.engine.recipes import recipe
from altermoma_ray.engine.scoring import ScoringJob
from altermoma_ray.engine.source import DataSource
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.trial import TrialJob
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.config import configuration
from altermoma_ray.models.fusion import FusionModel
from altermoma_ray.models.weights import load_weights
from altermoma_ray.pruning import group_weights, prunable_weights, solve_ratios
from altermoma_ray.storage import Location


class SearchPlan(BaseModel):
    """Everything that is decided before a search starts; saved, and read back by ``--resume``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dataset: str
    model: str
    checkpoint: str
    """URI of the unpruned model, in storage."""
    checkpoint_hash: str
    sizes: dict[str, int]
    """Prunable weights of each group."""
    source: DataSource
    space: SearchSpace
    objective: str
    sparsity: float = Field(ge=0, lt=1)
    trials: int = Field(gt=0)
    seed: int
    workers: int = Field(gt=0)
    """Ray Train workers of one trial; 1 runs it in a reused actor."""
    gpus_per_worker: float = Field(ge=0)
    created: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    lag: int = Field(default=0, ge=0)
    """See :mod:`altermoma_ray.engine.proposals`; 0 until the cluster is known."""

    @property
    def folder(self) -> Location:
        return search_folder(self.source.storage_location, self.name)

    def save(self) -> None:
        self.folder.join("search.json").write_text(self.model_dump_json(indent=2))

    @classmethod
    def load(cls, storage: Location, name: str) -> SearchPlan:
        """Read a search's plan back.

        Raises:
            UserError: there is no such search.
        """
        file = search_folder(storage, name).join("search.json")
        if not file.exists():
            known = [folder.name for folder in storage.join("searches").children()]
            raise UserError(f"no search {name!r} to resume in {storage}; there is {', '.join(known) or 'none'}")
        return cls.model_validate_json(file.read_bytes())

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
                settings=tuple(self.space.reactivations()),
            ),
            model=self.model,
            folder=str(self.folder),
            seed=self.seed,
            fine_tune_epochs=self.space.fine_tune_epochs,
            iterative_rounds=self.space.iterative_rounds,
            pruning_phase=self.space.pruning_phase,
            rungs=() if Objective.parse(self.objective).is_pareto else self.space.rungs,
            rung_samples=self.space.rung_samples,
        )


def search_folder(storage: Location, name: str) -> Location:
    """Where a search keeps its plan and its trials."""
    return storage.join("searches", name)


SHIPPED = Path(__file__).parents[1] / "models" / "checkpoints" / "bevfusion-mit-toy.safetensors"
"""The checkpoint that comes with the project, for the synthetic toy set."""


def plan_search(
    *,
    name: str | None,
    dataset: str,
    source: DataSource,
    synthetic: bool,
    model: str | None,
    checkpoint: str | None,
    space: SearchSpace,
    objective: str,
    sparsity: float,
    trials: int,
    seed: int,
    workers: int,
    gpus_per_worker: float,
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
        objective: see :meth:`altermoma_ray.engine.proposals.Objective.parse`.
        sparsity: the total sparsity, where it is not an objective.
        trials: how many to run.
        seed: of everything drawn.
        workers: Ray Train workers of one trial.
        gpus_per_worker: GPUs of each.

    Raises:
        UserError: an option is wrong, or does not go with another.
    """
    parsed = Objective.parse(objective)
    storage = source.storage_location
    taken = [folder.name for folder in storage.join("searches").children()]
    if name in taken:
        raise UserError(f"search {name!r} is already in {storage}; --resume it or choose another --name")
    config = configuration(model or ("bevfusion-mit-toy" if synthetic else "bevfusion-mit"))
    if checkpoint is None and not (synthetic and config.name == "bevfusion-mit-toy"):
        raise UserError(
            f"no weights for {config.name}: give --checkpoint FILE (released .pth or our .safetensors), "
            f"or train one with python -m altermoma_ray.train"
        )
    weights = load_weights(Location.parse(checkpoint or SHIPPED), config)
    sizes = _sizes(weights)
    for total in space.sparsity if parsed.searches_sparsity else (sparsity,):
        solve_ratios(sizes, total, dict.fromkeys(sizes, 0.0))
    stored, digest = _store(weights, storage)
    return SearchPlan(
        name=name or _free_name(dataset, taken),
        dataset=DATASETS[dataset],
        model=config.name,
        checkpoint=str(stored),
        checkpoint_hash=digest,
        sizes=sizes,
        source=source,
        space=space,
        objective=objective,
        sparsity=sparsity,
        trials=trials,
        seed=seed,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
    )


def resume_search(storage: Location, name: str | None) -> SearchPlan:
    """The plan of a search that was started before; the latest one when no name is given.

    Raises:
        UserError: there is no such search.
    """
    if name is None:
        plans = [folder.join("search.json") for folder in storage.join("searches").children()]
        known = [SearchPlan.model_validate_json(file.read_bytes()) for file in plans if file.exists()]
        if not known:
            raise UserError(f"no search to resume in {storage}; start one without --resume")
        return max(known, key=lambda plan: plan.created)
    return SearchPlan.load(storage, name)


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
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    key = digest.hexdigest()[:16]
    file = storage.join("checkpoints", f"{key}.safetensors")
    if not file.exists():
        save_checkpoint(file, model, {})
    return file, key
