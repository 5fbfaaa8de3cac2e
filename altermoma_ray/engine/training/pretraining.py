"""How an unpruned model is made: each backbone alone, then both together, on Ray Train workers.

As in the published models, the camera branch and the LiDAR branch are trained apart, each with a decoder and a head of
its own and the other branch masked; fusion training starts from both backbones, and from the LiDAR model's decoder and
head (Liu et al., *BEVFusion*, ICRA 2023).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from altermoma_ray.data.nuscenes.source import DataSource
from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers, worker_device
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.engine.training.loop import (
    data_parallel,
    one_cycle,
    steps_per_epoch,
    synchronise_buffers,
    train_steps,
    training_batches,
)
from altermoma_ray.engine.training.recipes import Recipe
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import load_checkpoint, save_checkpoint
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.depth_supervision import DepthSupervision
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.task import DetectionTask

Stage = Literal["camera", "lidar", "fusion"]
STAGES: tuple[Stage, ...] = ("camera", "lidar", "fusion")
_MASKED: dict[Stage, frozenset[str]] = {
    "camera": frozenset({"lidar"}),
    "lidar": frozenset({"camera"}),
    "fusion": frozenset(),
}


class TrainingJob(BaseModel):
    """One stage of training, for its workers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    config: ModelConfig
    recipe: Recipe
    source: DataSource
    folder: str
    """URI of the folder that holds ``camera.safetensors``, ``lidar.safetensors`` and ``fusion.safetensors``."""
    seed: int

    def checkpoint(self, stage: Stage) -> Location:
        """What a stage leaves."""
        return Location.parse(self.folder).join(f"{stage}.safetensors")

    @property
    def steps(self) -> int:
        epochs = getattr(self.recipe, f"{self.stage}_epochs")
        return max(1, round(epochs * steps_per_epoch(self.source, self.recipe)))


def train_stage(job: TrainingJob, *, workers: int, gpus_per_worker: float = 0.0) -> dict[str, float]:
    """Train one stage, unless its checkpoint is there already.

    Returns:
        Validation metrics of the stage's model.
    """
    if not job.checkpoint(job.stage).exists():
        run_on_workers(
            _worker,
            job,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            storage=job.source.storage_location,
            describe=f"training {job.stage}",
            total=job.steps,
        )
    _, metadata = load_checkpoint(job.checkpoint(job.stage))
    metrics: dict[str, float] = metadata["metrics"][job.stage]
    return metrics


def _worker(job: TrainingJob, reporter: Reporter) -> None:
    try:
        _train(job, reporter)
    except FloatingPointError as error:
        raise UserError(f"training {job.stage}: {error}") from error


def _train(job: TrainingJob, reporter: Reporter) -> None:
    rank, world = rank_and_world()
    torch.manual_seed(job.seed + STAGES.index(job.stage))
    model, metrics = _initial(job)
    model.to(worker_device())
    task = DetectionTask(job.config.head)
    masked = _MASKED[job.stage]
    trained = [p for name, p in model.named_parameters() if FusionModel.group_of(name) not in masked]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(FusionModel.group_of(name) not in masked)
    rate = job.recipe.fusion_learning_rate if job.stage == "fusion" else job.recipe.learning_rate
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=job.recipe.weight_decay)

    def report(loss: float) -> None:
        if rank == 0:
            reporter.advance(1, f"loss {loss:.2f}")

    torch.manual_seed(job.seed + rank)  # workers draw their own dropout
    with DepthSupervision(model.encoders["camera"]) as supervision:
        weight = job.recipe.depth_supervision if job.stage == "camera" else 0.0
        train_steps(
            data_parallel(model),
            task,
            training_batches(
                job.source, job.config.inputs, job.recipe, steps=job.steps, seed=job.seed, augment=job.recipe.augment
            ),
            optimizer,
            one_cycle(optimizer, job.steps),
            clip_norm=job.recipe.clip_norm,
            masked=masked,
            extra_loss=(lambda batch: weight * supervision.loss(batch)) if weight else None,
            on_step=report,
        )
    synchronise_buffers(model)
    evaluator = Evaluator(
        job.source, job.config.inputs, job.source.validation_rows(), batch_size=max(1, job.recipe.batch_size // world)
    )
    metrics[job.stage] = evaluator(model, task, masked=masked)
    if rank == 0:
        metadata = {
            "stage": job.stage,
            "seed": job.seed,
            "workers": world,
            "recipe": job.recipe.model_dump(mode="json"),
            "version": job.source.version,
            "metrics": metrics,
        }
        save_checkpoint(job.checkpoint(job.stage), model, metadata)


def _initial(job: TrainingJob) -> tuple[FusionModel, dict[str, dict[str, float]]]:
    """The model that a stage starts from, and the metrics of the stages before."""
    model = FusionModel(job.config)
    if job.stage != "fusion":
        return model, {}
    camera, camera_metadata = load_checkpoint(job.checkpoint("camera"))
    lidar, lidar_metadata = load_checkpoint(job.checkpoint("lidar"))
    parents = {"camera": camera.state_dict(), "lidar": lidar.state_dict(), "fusion": lidar.state_dict()}
    model.load_state_dict({name: parents[FusionModel.group_of(name)][name] for name in model.state_dict()})
    return model, {**camera_metadata["metrics"], **lidar_metadata["metrics"]}
