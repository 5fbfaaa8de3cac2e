"""The plan of a robustness report.

In storage::

    checkpoints/<hash>.safetensors       the evaluated models
    reports/<name>/report.json           every figure
                  /robustness.csv        the same for a spreadsheet
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from altermoma_ray.engine.search.planning import keep_model
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.tracking.robustness import AS_IS, UNPRUNED, RobustnessReport
from altermoma_ray.workloads.protocols import ValidationPart
from altermoma_ray.workloads.reference import WorkloadReference
from altermoma_ray.workloads.workload import Workload


class Condition(BaseModel):
    """What fails in one evaluation.

    >>> Condition(title="radar lost", masked="radar").disturbance is None
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    masked: str | None = None
    """The lost modality; None loses none."""
    disturbance: str | None = None
    """Key of the data source's ``disturbances``; None leaves the samples as they are."""


class Subject(BaseModel):
    """A model to evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    """What the user called the model; empty for the unpruned one."""
    checkpoint: Place
    """Its file in storage."""


class RobustnessJob(BaseModel):
    """Everything a worker needs to measure a report.

    The two stages of a report::

        measure(job, workers=2, gpus_per_worker=0.0)
        job.read().print()
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: WorkloadReference
    validation_part: ValidationPart
    subjects: dict[str, Subject]
    """By label, the unpruned model first."""

    @property
    def folder(self) -> Location:
        """The folder of the report, named by all that its figures depend on.

        The same command finds its report again, and no other command overwrites it. Nothing of the machine enters, so a
        moved storage keeps its names.
        """
        workload = self.workload.load()
        parts = [
            workload.source().fingerprint("validation"),
            self.validation_part,
            *(Location.parse(subject.checkpoint).name for subject in self.subjects.values()),
            *(subject.reference for subject in self.subjects.values()),
        ]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
        return self.workload.storage_location.join("reports", f"robustness-{workload.name}-{key}")

    def read(self) -> RobustnessReport | None:
        """The report as measured; None before."""
        file = self.folder.join("report.json")
        return RobustnessReport.model_validate_json(file.read_bytes()) if file.exists() else None


def conditions(workload: Workload) -> dict[str, Condition]:
    """The conditions of a workload by name: nothing fails, a modality is lost, a disturbance of the data source."""
    disturbances: Mapping[str, str] = getattr(workload.source(), "disturbances", {})
    return {
        AS_IS: Condition(title=AS_IS),
        **{f"without-{name}": Condition(title=f"{name} lost", masked=name) for name in workload.modalities},
        **{name: Condition(title=title, disturbance=name) for name, title in disturbances.items()},
    }


def check_subjects(workload: Workload, pruned: Mapping[str, nn.Module]) -> None:
    """Find out whether models have a workload's metrics.

    Args:
        workload: the workload.
        pruned: the models, by what the user calls them.

    Raises:
        UserError: a model is for another task.
    """
    expected = _names(workload.task)
    for name, model in pruned.items():
        if (found := _names(workload.task_for(model))) != expected:
            raise UserError(
                f"{name} is a model for another task: its metrics are {found[0]} and others, those of {workload.name} "
                f"{expected[0]} and others; name its own --model"
            )


def plan_report(
    reference: WorkloadReference, unpruned: nn.Module, pruned: Mapping[str, nn.Module], part: ValidationPart
) -> RobustnessJob:
    """The job of a report, with its models in storage.

    Args:
        reference: the workload, with its data prepared.
        unpruned: its model before pruning.
        pruned: other models by what the user calls them.
        part: the validation samples.
    """
    models = [("", unpruned), *pruned.items()]
    labels = [UNPRUNED, *(f"pruned-{number}" for number in range(1, len(models)))]
    subjects = {}
    for label, (name, model) in zip(labels, models, strict=True):
        checkpoint, _ = keep_model(model, reference.storage_location)
        subjects[label] = Subject(reference=name, checkpoint=str(checkpoint))
    return RobustnessJob(workload=reference, validation_part=part, subjects=subjects)


def _names(task: Any) -> list[str]:
    return [metric.name for metric in task.metrics]
