"""From a search to the certificate of its champion: measured, concluded, drawn, kept and logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from altermoma_ray.console import console
from altermoma_ray.engine.certificate.job import CertificateJob, check_search, plan_certificate
from altermoma_ray.engine.certificate.measure import measure
from altermoma_ray.engine.ray.workers import check_cluster, ray_session, workers_of
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.errors import UserError
from altermoma_ray.tracking.certificate.conclusions import certify
from altermoma_ray.tracking.certificate.page import page
from altermoma_ray.tracking.certificate.records import Certificate
from altermoma_ray.tracking.mlflow.reports import CERTIFICATE, ReportTracker
from altermoma_ray.workloads.protocols import DataSource

if TYPE_CHECKING:
    from PIL.Image import Image

FILES = ("certificate.json", "certificate.html")
"""Of a certificate, in storage and in MLflow; the single figures stay in storage."""


def certify_champion(
    plan: SearchPlan, tracker: ReportTracker, *, margin: float, workers: int | None, gpus_per_worker: float
) -> Certificate:
    """Certify the champion of a search; mistakes are found before Ray starts.

    What is measured stays in storage: the same champion with another margin is certified without measuring.

    Example::

        plan = stored_plan(storage, "nusc-1")
        certify_champion(plan, ReportTracker.open(None, storage), margin=0.02, workers=None, gpus_per_worker=0.0)

    Args:
        plan: of the search.
        tracker: the MLflow store with the search.
        margin: greatest loss of the metric that is put up with.
        workers: Ray Train workers; None for what the cluster holds, at most 8.
        gpus_per_worker: GPUs of each worker.

    Raises:
        UserError: the plan is of a comparison, or the search has no champion.
    """
    check_search(plan)
    champion = tracker.champion(plan.name)
    if champion is None:
        raise UserError(
            f"search {plan.name!r} in {tracker.store.name} has no champion yet; certify it when a trial has finished"
        )
    tracker.check_run(champion.run_id)
    data = plan.workload.load().source()
    data.prepare()
    # After `prepare`: the job's folder is named by the fingerprint of the prepared data.
    job = plan_certificate(plan, champion, tracker.store.uri)
    if job.read() is None:
        check_cluster()
        with ray_session():
            count = workers_of(workers, gpus_per_worker)
            console.print(f"[bold]measuring[/] the unpruned model and trial {job.trial}")
            measure(job, workers=count, gpus_per_worker=gpus_per_worker)
    else:
        console.print(f"[bold]measured[/] earlier: {job.folder}")
    certificate = _write(job, data, margin)
    files = {name: job.folder.join(name).read_bytes() for name in FILES}
    tracker.log_certificate(champion.run_id, files, certificate.metrics())
    console.print(f"[bold]certificate[/] {CERTIFICATE}/ in run {champion.run_id} of MLflow, and {job.folder}")
    return certificate


def _write(job: CertificateJob, data: DataSource, margin: float) -> Certificate:
    """The conclusions, written beside the figures, with a page of the lost objects."""
    measured = job.read()
    assert measured is not None
    certificate = certify(measured, margin)
    pictures: dict[str, Image] = {}
    if hasattr(data, "object_picture"):
        pictures = {one.name: data.object_picture(one.row, one.name) for one in certificate.lost}
    for name, content in zip(FILES, (certificate.model_dump_json(indent=2), page(certificate, pictures)), strict=True):
        job.folder.join(name).write_text(content)
    return certificate
