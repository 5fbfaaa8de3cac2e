"""Measuring both models of a certificate on Ray Train workers, by scene and by object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altermoma_ray.engine.certificate.job import CertificateJob
from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, worker_device
from altermoma_ray.engine.training.evaluation import Evaluator, evaluate_on_workers
from altermoma_ray.objects import FoundObjects
from altermoma_ray.storage import Location
from altermoma_ray.tracking.certificate.records import Measured, ObjectFigures, Pair, SceneFigures
from altermoma_ray.tracking.certificate.statistics import threshold_of_alarms, threshold_of_best_f1
from altermoma_ray.workloads.protocols import DataSource, Task

MODELS = ("unpruned", "champion")
Predictions = Mapping[str, Mapping[str, Any]]
"""By model and sample name."""


def measure(job: CertificateJob, *, workers: int, gpus_per_worker: float) -> None:
    """Measure every figure and write them to storage; :meth:`CertificateJob.read` reads them.

    Args:
        job: the job; its models are in storage.
        workers: Ray Train workers, which share the samples.
        gpus_per_worker: GPUs of each worker.
    """
    evaluate_on_workers(
        measure_worker,
        job,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        describe="measuring",
        passes=len(MODELS),
    )


def measure_worker(job: CertificateJob, reporter: Reporter | None = None) -> None:
    """One worker's share of the samples; rank 0 writes the figures."""
    workload = job.workload.load()
    data = workload.source()
    rows = data.rows("validation", job.validation_part)
    evaluator = Evaluator.of(data, rows, workload.recipe)
    found: dict[str, Mapping[str, Any]] = {}
    for label, file in zip(MODELS, (job.unpruned, job.champion), strict=True):
        model, _ = workload.load(Location.parse(file))
        found[label] = evaluator.predictions(
            model.to(worker_device()),
            workload.task_for(model),
            on_batch=reporter.advance if reporter is not None else lambda: None,
        )
    if rank_and_world()[0] == 0:
        job.measured.write_text(_measured(job, workload.task, data, rows, found).model_dump_json())


def _measured(job: CertificateJob, task: Task, data: DataSource, rows: Sequence[int], found: Predictions) -> Measured:
    workload = job.workload.load()
    (metric,) = [metric for metric in task.metrics if metric.name == job.metric]
    scenes = scenes_of(data, rows)
    figure_of = getattr(task, "evaluate_scene", task.evaluate)
    figures = [
        Pair(**{label: figure_of(found[label], data, own)[metric.name] for label in MODELS}) for own in scenes.values()
    ]
    thresholds, alarms, objects = _objects(task, data, scenes, found)
    return Measured(
        search=job.search,
        trial=job.trial,
        dataset=workload.dataset,
        model=workload.name,
        validation_part=job.validation_part,
        chosen_on_them=job.chosen_on_them,
        metric=metric.name,
        title=metric.title,
        direction=metric.direction,
        whole=Pair(**{label: task.evaluate(found[label], data, rows)[metric.name] for label in MODELS}),
        scenes=[
            SceneFigures(name=name, samples=len(own), metric=figure, false_alarms=alarm)
            for (name, own), figure, alarm in zip(scenes.items(), figures, alarms, strict=True)
        ],
        thresholds=thresholds,
        objects=objects,
    )


def scenes_of(data: DataSource, rows: Sequence[int]) -> dict[str, list[int]]:
    """The rows of each scene by its name, in order; each row is its own scene where the data source tells of none."""
    names = data.scenes_of(rows) if hasattr(data, "scenes_of") else [str(row) for row in rows]
    scenes: dict[str, list[int]] = {}
    for name, row in zip(names, rows, strict=True):
        scenes.setdefault(name, []).append(row)
    return scenes


def _objects(
    task: Task, data: DataSource, scenes: Mapping[str, Sequence[int]], found: Predictions
) -> tuple[Pair | None, list[Pair | None], list[ObjectFigures]]:
    """The thresholds of both models, their false alarms in each scene, and all objects."""
    if not hasattr(task, "found_objects"):
        return None, [None] * len(scenes), []
    told: dict[str, list[FoundObjects]] = {
        label: [task.found_objects(found[label], data, rows) for rows in scenes.values()] for label in MODELS
    }
    unpruned, champion = ([alarm for scene in told[label] for alarm in scene.false_alarms] for label in MODELS)
    scores = [one.score for scene in told["unpruned"] for one in scene.objects]
    first = threshold_of_best_f1(scores, unpruned)
    # The champion may raise as many false alarms as the unpruned model: recalls compare at equal alarms alone.
    second = threshold_of_alarms(champion, sum(alarm >= first for alarm in unpruned))
    thresholds = Pair(unpruned=first, champion=second)
    alarms: list[Pair | None] = []
    objects: list[ObjectFigures] = []
    for number, (one, other) in enumerate(zip(told["unpruned"], told["champion"], strict=True)):
        alarms.append(
            Pair(
                unpruned=sum(alarm >= first for alarm in one.false_alarms),
                champion=sum(alarm >= second for alarm in other.false_alarms),
            )
        )
        objects += [
            ObjectFigures(
                name=truth.name,
                row=truth.row,
                scene=number,
                slices=dict(truth.slices),
                scores=Pair(unpruned=truth.score, champion=twin.score),
            )
            for truth, twin in zip(one.objects, other.objects, strict=True)
        ]
    return thresholds, alarms, objects
