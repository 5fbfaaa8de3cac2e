"""Training of an unpruned model: the stages of a recipe in turn, on Ray Train workers.

Fusion models are commonly trained by branches first. A stage masks the other modalities and trains one branch; the
last stage starts from the weights of the stages before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers, worker_device
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.engine.training.loop import (
    ExtraLoss,
    data_parallel,
    one_cycle,
    steps_per_epoch,
    synchronise_buffers,
    train_steps,
    training_batches,
)
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.storage import Location
from altermoma_ray.workloads.recipe import Recipe, Stage
from altermoma_ray.workloads.reference import WorkloadReference
from altermoma_ray.workloads.workload import Workload, group_function


class TrainingJob(BaseModel):
    """One stage of training, for its workers.

    A recipe's stages run in its order, since later stages start from earlier ones::

        for stage in recipe.stages:
            job = TrainingJob(workload=workload, recipe=recipe, stage=stage.name, folder=folder, seed=0)
            metrics = train_stage(job, workers=2)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: WorkloadReference
    recipe: Recipe
    stage: str
    """Name of a stage of the recipe."""
    folder: str
    """URI of the folder with ``<stage>.safetensors`` of every stage."""
    seed: int

    def checkpoint(self, stage: str) -> Location:
        """The checkpoint written at a stage's end."""
        return Location.parse(self.folder).join(f"{stage}.safetensors")

    @property
    def figures(self) -> Stage:
        """The stage's own part of the recipe."""
        return next(stage for stage in self.recipe.stages if stage.name == self.stage)

    @property
    def steps(self) -> int:
        epochs = self.figures.epochs
        return max(1, round(epochs * steps_per_epoch(self.workload.load().source(), self.recipe)))


def train_stage(job: TrainingJob, *, workers: int, gpus_per_worker: float = 0.0) -> dict[str, float]:
    """Train one stage, unless its checkpoint exists already.

    Args:
        job: the stage.
        workers: Ray Train workers.
        gpus_per_worker: GPUs of each worker.

    Returns:
        Validation metrics of the stage's model.
    """
    if not job.checkpoint(job.stage).exists():
        run_on_workers(
            _worker,
            job,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            storage=job.workload.storage_location,
            describe=f"training {job.stage}",
            total=job.steps,
        )
    # The metrics lie in the checkpoint and not in a file beside it: a stage is either complete or absent, and a stage
    # trained earlier answers as one trained now.
    _, metadata = job.workload.load().load(job.checkpoint(job.stage))
    metrics: dict[str, float] = metadata["metrics"][job.stage]
    return metrics


def _worker(job: TrainingJob, reporter: Reporter) -> None:
    try:
        _train(job, reporter)
    except FloatingPointError as error:  # the recipe's learning rate is to blame, so no traceback is shown
        raise UserError(f"training {job.stage}: {error}") from error


def _train(job: TrainingJob, reporter: Reporter) -> None:
    rank, world = rank_and_world()
    workload, stage = job.workload.load(), job.figures
    data, masked = workload.source(), stage.masked
    # Another seed for each stage: two branches of one shape must not begin with the same weights. All workers share the
    # seed here, and start from the same model.
    torch.manual_seed(job.seed + job.recipe.stages.index(stage))
    model, metrics = _initial(job, workload)
    model.to(worker_device())
    task, group_of = workload.task_for(model), group_function(model)
    # Masked branches are left out of the optimiser: AdamW's weight decay would shrink them without any gradient. Frozen
    # besides, they cost no backward pass, and DistributedDataParallel does not wait for their gradients.
    trained = [p for name, p in model.named_parameters() if group_of(name) not in masked]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name) not in masked)
    optimizer = torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=job.recipe.weight_decay)

    def report(loss: float) -> None:
        if rank == 0:
            reporter.advance(1, f"loss {loss:.2f}")

    torch.manual_seed(job.seed + rank)  # from here on workers draw their own dropout
    # The auxiliary loss hooks into the model: its context surrounds the training alone, not the evaluation.
    with _auxiliary_loss(model, stage) as extra_loss:
        train_steps(
            data_parallel(model),
            task,
            training_batches(data, job.recipe, steps=job.steps, seed=job.seed, augment=job.recipe.augment),
            optimizer,
            one_cycle(optimizer, job.steps),
            clip_norm=job.recipe.clip_norm,
            masked=masked,
            extra_loss=extra_loss,
            on_step=report,
        )
    synchronise_buffers(model)
    # A stage is judged under its own mask: the other branches are untrained.
    evaluator = Evaluator(data, data.rows("validation"), batch_size=max(1, job.recipe.batch_size // world))
    metrics[job.stage] = evaluator(model, task, masked=masked)
    if rank == 0:
        metadata = {
            "stage": job.stage,
            "seed": job.seed,
            "workers": world,
            "recipe": job.recipe.model_dump(mode="json"),
            "metrics": metrics,
        }
        save_checkpoint(job.checkpoint(job.stage), model, metadata)


@contextlib.contextmanager
def _auxiliary_loss(model: nn.Module, stage: Stage) -> Iterator[ExtraLoss | None]:
    """The model's own loss beside the task's, times the stage's weight; None for a stage without this loss."""
    if not stage.auxiliary_loss:
        yield None
        return
    with model.auxiliary_loss() as loss:  # type: ignore[operator]
        yield lambda outputs, batch: stage.auxiliary_loss * loss(batch)


def _initial(job: TrainingJob, workload: Workload) -> tuple[nn.Module, dict[str, dict[str, float]]]:
    """The model at a stage's beginning, and the metrics of the stages before."""
    model = workload.build()
    # Two branches may start from one stage: dict.fromkeys reads its checkpoint once.
    parents = {stage: workload.load(job.checkpoint(stage)) for stage in dict.fromkeys(job.figures.starts_from.values())}
    states = {stage: parent.state_dict() for stage, (parent, _) in parents.items()}
    # Tensor by tensor, since each group may come from another stage; groups without a stage stay as built. The state
    # and not the parameters: running statistics of a branch belong to its weights.
    group_of, starts_from = group_function(model), job.figures.starts_from
    state = {
        name: states[starts_from[group_of(name)]][name] if group_of(name) in starts_from else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model, {stage: figures for _, metadata in parents.values() for stage, figures in metadata["metrics"].items()}
