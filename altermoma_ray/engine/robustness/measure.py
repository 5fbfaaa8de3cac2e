"""Measuring a robustness report on Ray Train workers: every model under every condition."""

from __future__ import annotations

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, worker_device
from altermoma_ray.engine.robustness.job import Condition, RobustnessJob, conditions
from altermoma_ray.engine.training.evaluation import Evaluator, evaluate_on_workers
from altermoma_ray.storage import Location
from altermoma_ray.tracking.robustness import Measured, RobustnessReport


def measure(job: RobustnessJob, *, workers: int, gpus_per_worker: float) -> None:
    """Measure every figure and write the report to storage; :meth:`RobustnessJob.read` reads the report.

    Args:
        job: the report's job; its models are in storage.
        workers: Ray Train workers, which share the samples.
        gpus_per_worker: GPUs of each worker.
    """
    evaluate_on_workers(
        measure_worker,
        job,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        describe="measuring",
        passes=len(conditions(job.workload.load())) * len(job.subjects),
    )


def measure_worker(job: RobustnessJob, reporter: Reporter | None = None) -> None:
    """One worker's share of a report; rank 0 writes the report."""
    workload = job.workload.load()
    data, task = workload.source(), workload.task
    rows = data.rows("validation", job.validation_part)
    columns = [metric for metric in task.metrics if metric.is_column]
    found = conditions(workload)
    measured: list[Measured] = []
    # By disturbance: an evaluator keeps its decoded samples for all conditions and models that share them.
    for disturbance in dict.fromkeys(condition.disturbance for condition in found.values()):
        source = data if disturbance is None else data.disturbed(disturbance)  # type: ignore[attr-defined]
        evaluator = Evaluator.of(source, rows, workload.recipe)
        for label, subject in job.subjects.items():
            model, _ = workload.load(Location.parse(subject.checkpoint))
            model.to(worker_device())
            for name, condition in found.items():
                if condition.disturbance == disturbance:
                    metrics = evaluator(
                        model, workload.task_for(model), masked=_masked(condition), on_batch=lambda: _advance(reporter)
                    )
                    figures = {metric.name: metrics[metric.name] for metric in columns}
                    measured.append(Measured(model=label, condition=name, figures=figures))
    if rank_and_world()[0] != 0:
        return
    order = [(label, name) for label in job.subjects for name in found]
    report = RobustnessReport(
        dataset=workload.dataset,
        model=workload.name,
        validation_part=job.validation_part,
        samples=len(rows),
        titles={metric.name: metric.title for metric in columns},
        models={label: subject.reference for label, subject in job.subjects.items()},
        conditions={name: condition.title for name, condition in found.items()},
        measured=sorted(measured, key=lambda one: order.index((one.model, one.condition))),
    )
    # The report last: it stands for a measurement that came to its end.
    job.folder.join("robustness.csv").write_bytes(report.csv())
    job.folder.join("report.json").write_text(report.model_dump_json(indent=2))


def _masked(condition: Condition) -> frozenset[str]:
    return frozenset() if condition.masked is None else frozenset({condition.masked})


def _advance(reporter: Reporter | None) -> None:
    if reporter is not None:
        reporter.advance()
