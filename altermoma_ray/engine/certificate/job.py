"""The plan of a certificate.

In storage::

    checkpoints/<hash>.safetensors          both models
    reports/<name>/measured.json            figures of both by scene and by object, for any margin
                  /certificate.json         the conclusions
                  /certificate.html         the same as a page with pictures
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict

from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import keep_model
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import Metric
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.tracking.certificate.records import Measured
from altermoma_ray.tracking.leaderboard.board import Champion
from altermoma_ray.tracking.mlflow.models import open_model
from altermoma_ray.workloads.protocols import ValidationPart
from altermoma_ray.workloads.reference import WorkloadReference


class CertificateJob(BaseModel):
    """Everything a worker needs to compare two models.

    The two stages of a certificate::

        measure(job, workers=2, gpus_per_worker=0.0)
        certify(job.read(), margin=0.02)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: WorkloadReference
    validation_part: ValidationPart
    chosen_on_them: bool
    """Whether the search chose its champion on these samples."""
    search: str
    trial: int
    """Number of the champion."""
    unpruned: Place
    """The unpruned model's file in storage."""
    champion: Place
    """The champion's."""
    metric: str
    """Name of the compared metric."""

    @property
    def folder(self) -> Location:
        """The folder of the certificate, named by all that its figures depend on, and by nothing of the machine."""
        workload = self.workload.load()
        files = [Location.parse(file).name for file in (self.unpruned, self.champion)]
        parts = [workload.source().fingerprint("validation"), self.validation_part, self.metric, *files]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
        return self.workload.storage_location.join("reports", f"certificate-{self.search}-{self.trial}-{key}")

    @property
    def measured(self) -> Location:
        """The file of the figures."""
        return self.folder.join("measured.json")

    def read(self) -> Measured | None:
        """The figures; None before they are measured."""
        return Measured.model_validate_json(self.measured.read_bytes()) if self.measured.exists() else None


def check_search(plan: SearchPlan) -> None:
    """Find out whether a plan is of a search, which alone has a champion.

    Raises:
        UserError: the plan is of a comparison.
    """
    if plan.grid:
        raise UserError(
            f"{plan.name!r} is a comparison, which has no champion to certify; name a search, or read the comparison's "
            "own intervals in its run of MLflow"
        )


def plan_certificate(plan: SearchPlan, champion: Champion, tracking_uri: str | None = None) -> CertificateJob:
    """The job of a search's champion, with its model in storage.

    Args:
        plan: of the search, with its data prepared.
        champion: the trial.
        tracking_uri: of the MLflow store with the champion's run; None for the storage's own.

    Raises:
        UserError: the champion's model is gone.
    """
    with open_model(champion.run_id, plan.storage, tracking_uri) as file:
        model, _ = plan.workload.load().load(file)
    kept, _ = keep_model(model, plan.storage)
    part, chosen_on_them = certified_part(plan.validation_part)
    return CertificateJob(
        workload=plan.workload,
        validation_part=part,
        chosen_on_them=chosen_on_them,
        search=plan.name,
        trial=champion.trial,
        unpruned=plan.checkpoint,
        champion=str(kept),
        metric=compared_metric(plan).name,
    )


def certified_part(searched: ValidationPart) -> tuple[ValidationPart, bool]:
    """The validation samples to certify on, and whether the search chose its champion on them.

    A search on one half leaves the other one unseen; a search on all samples leaves none.

    >>> certified_part("tuning"), certified_part("all")
    (('reporting', False), ('all', True))
    """
    unseen: dict[ValidationPart, ValidationPart] = {"tuning": "reporting", "reporting": "tuning"}
    return unseen.get(searched, "all"), searched not in unseen


def compared_metric(plan: SearchPlan) -> Metric:
    """The first objective of the task's own metrics, else the task's first metric.

    Costs and sparsity are the same in every scene, and a masked metric tells of a failure.
    """
    own = plan.workload.load().task.metrics
    return next((metric for metric in plan.optimised.metrics if metric in own), own[0])
