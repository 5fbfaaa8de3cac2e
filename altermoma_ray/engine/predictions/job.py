"""Evaluating one model on Ray Train workers, with its predictions kept as result files.

In storage::

    checkpoints/<hash>.safetensors            the evaluated model
    predictions/<name>/files/...              the result files, if they were asked for
                      /metrics.json           the metrics, last
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict, TypeAdapter
from torch import nn

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, worker_device
from altermoma_ray.engine.search.planning import keep_model
from altermoma_ray.engine.training.evaluation import Evaluator, evaluate_on_workers
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.workloads.protocols import ValidationPart
from altermoma_ray.workloads.reference import WorkloadReference
from altermoma_ray.workloads.workload import Workload

# Metrics may be NaN, which JSON does not have: NaN travels as a string.
_METRICS = TypeAdapter(dict[str, float], config=ConfigDict(ser_json_inf_nan="strings"))


class PredictionJob(BaseModel):
    """Everything a worker needs to evaluate a model.

    Example::

        job = plan_predictions(reference, model, "all", saves=True)
        metrics = evaluate(job, workers=2, gpus_per_worker=0.0)
        save_files(job, Location.parse("detections"))
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: WorkloadReference
    checkpoint: Place
    """The model's file in storage."""
    validation_part: ValidationPart
    saves: bool
    """Whether the predictions are kept as result files."""

    @property
    def folder(self) -> Location:
        """The folder of the result, named by all that the result depends on: the same command finds it again."""
        workload = self.workload.load()
        fingerprint = workload.source().fingerprint("validation")
        parts = [fingerprint, self.validation_part, Location.parse(self.checkpoint).name]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
        return self.workload.storage_location.join("predictions", f"{workload.name}-{key}")

    @property
    def files(self) -> Location:
        """The folder of the result files."""
        return self.folder.join("files")

    @property
    def figures(self) -> Location:
        """The file of the metrics."""
        return self.folder.join("metrics.json")

    def metrics(self) -> dict[str, float] | None:
        """The metrics by name; None before the model is evaluated, or while result files are wanted and missing."""
        if not self.figures.exists() or (self.saves and not self.files.is_folder()):
            return None
        return _METRICS.validate_json(self.figures.read_bytes())


def check_savable(workload: Workload, out: Location) -> None:
    """Find out whether result files of a workload's predictions can be written to a folder.

    Raises:
        UserError: the task writes no result files, or the folder is not empty or cannot be written.
    """
    if not hasattr(workload.task, "result_files"):
        raise UserError(
            f"{workload.name} has no result files, since no official evaluation reads its predictions from files; "
            "leave --save-detections out"
        )
    # Files of another model between the new ones would be read as predictions of the new model.
    if out.is_folder() and out.listing():
        raise UserError(f"--save-detections {out} holds files already; give a new or an empty folder")
    out.check_writable()


def plan_predictions(
    reference: WorkloadReference, model: nn.Module, part: ValidationPart, *, saves: bool
) -> PredictionJob:
    """The job of a model, with the model in storage.

    Args:
        reference: the workload, with its data prepared.
        model: the model to evaluate.
        part: the validation samples.
        saves: whether the predictions are kept as result files.
    """
    checkpoint, _ = keep_model(model, reference.storage_location)
    return PredictionJob(workload=reference, checkpoint=str(checkpoint), validation_part=part, saves=saves)


def evaluate(job: PredictionJob, *, workers: int, gpus_per_worker: float) -> dict[str, float]:
    """The metrics of the job's model; its result files are in storage afterwards.

    Args:
        job: the job; its model is in storage.
        workers: Ray Train workers, which share the samples.
        gpus_per_worker: GPUs of each worker.
    """
    evaluate_on_workers(evaluate_worker, job, workers=workers, gpus_per_worker=gpus_per_worker, describe="evaluating")
    metrics = job.metrics()
    assert metrics is not None
    return metrics


def evaluate_worker(job: PredictionJob, reporter: Reporter | None = None) -> None:
    """One worker's share of the samples; rank 0 writes the result."""
    workload = job.workload.load()
    data = workload.source()
    rows = data.rows("validation", job.validation_part)
    model, _ = workload.load(Location.parse(job.checkpoint))
    task = workload.task_for(model)
    evaluator = Evaluator.of(data, rows, workload.recipe)
    found = evaluator.predictions(
        model.to(worker_device()), task, on_batch=reporter.advance if reporter is not None else lambda: None
    )
    if rank_and_world()[0] != 0:
        return
    if job.saves:
        # Metrics of an earlier evaluation without files would tell of whole files if this process stopped among them.
        job.figures.delete()
        files = job.files  # once: a folder's name is a hash, and KITTI has thousands of files
        for name, text in task.result_files(found, data, rows).items():  # type: ignore[attr-defined]
            files.join(name).write_text(text)
    # The metrics last: they stand for an evaluation that came to its end.
    job.figures.write_bytes(_METRICS.dump_json(task.evaluate(found, data, rows), indent=1))


def save_files(job: PredictionJob, out: Location) -> int:
    """Copy the result files of an evaluated model to the user's folder.

    The files come from storage, since a worker may run on a node where the user's folder is not.

    Returns:
        The number of files.
    """
    files = job.files.children()
    for file in files:
        out.join(file.name).write_bytes(file.read_bytes())
    return len(files)
