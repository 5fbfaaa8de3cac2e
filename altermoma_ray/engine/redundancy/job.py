"""The plan of a redundancy report, and the places of its parts.

In storage::

    reports/<name>/trials/0000/...         the pruned model, when the report prunes one; reused by the next report
                  /report.json             every figure
                  /features.safetensors    ‖F‖ of every feature picture, and the occupied cells of its sample
    reports/<name>.html                    the page
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from altermoma_ray.engine.scoring.indicators import (
    ScoringJob,
    load_scores,
    merged,
)
from altermoma_ray.engine.scoring.requests import ScoreRequest, Wanted
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.space import PruningSetting
from altermoma_ray.engine.space.setting import OWN_FIELDS, parameter_names
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.pruning import Indicators, Masks, Reactivation, Weights, prunable_weights
from altermoma_ray.pruning.criteria import CRITERIA, IndicatorCriterion
from altermoma_ray.storage import Location
from altermoma_ray.tracking.redundancy.records import RedundancyReport
from altermoma_ray.workloads.reference import WorkloadReference
from altermoma_ray.workloads.workload import Workload

FEATURE_SAMPLES = 8
"""Validation samples whose BEV features are compared."""


def evaluations(modalities: int) -> int:
    """Number of a report's evaluations.

    Three states (unpruned, pruned, fine-tuned) are evaluated whole and without each modality; each reactivated model is
    evaluated without its masked modality.

    >>> evaluations(2)
    11
    """
    return 3 * (1 + modalities) + modalities


class RedundancyJob(BaseModel):
    """Everything a worker needs to measure a report.

    The three stages of a report, and its figures::

        score_for_report(job, workers=2, gpus_per_worker=0.0)
        run_alone(job.trial, job.task, workers=2, gpus_per_worker=0.0)
        measure_report(job, workers=2, gpus_per_worker=0.0)
        report, pictures = job.read()
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    dataset: str
    model: str
    trial: TrialJob
    """The job of pruning and fine-tuning, run as one trial of a search."""
    task: TrialTask
    pruned: Place | None
    """Folder of a pruned model, by URI; None for the trial's own."""

    @property
    def scoring(self) -> ScoringJob:
        """The job of the compared parts: DeCI, ReRI of one reactivation, and the scores of all one-shot criteria."""
        # Criteria which prune in rounds are left out: they have no scores, and their masks serve one sparsity alone.
        scores = tuple(ScoreRequest(criterion=name) for name, one in CRITERIA.items() if one.needs == "scores")
        wanted = Wanted(contribution=True, settings=(self.reactivation,), criteria=scores)
        return self.trial.scoring.model_copy(update=dict(wanted))

    @property
    def scoring_jobs(self) -> list[ScoringJob]:
        """The jobs to score: for the report, and for the trial where there is one."""
        # Merged: the trial's indicators are mostly the report's, and would otherwise be computed twice.
        own = [] if self.pruned is not None else [self.trial.scoring_of(self.task)]
        return merged([self.scoring, *own])

    @property
    def reactivation(self) -> Reactivation:
        return self.trial.scoring.settings[0]

    @property
    def folder(self) -> Location:
        return Location.parse(self.trial.folder)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def page(self) -> Location:
        """The file of the page."""
        return self.folder.parent.join(f"{self.name}.html")

    @property
    def pruned_folder(self) -> Location:
        """The folder of the pruned model, written by the trial unless given."""
        return Location.parse(self.pruned) if self.pruned is not None else self.trial.trial_folder(self.task.number)

    def scores(self, indicators: Indicators, groups: dict[str, list[str]]) -> dict[str, Weights]:
        """Scores by criterion, from storage.

        Args:
            indicators: with the ReRI of this report's reactivation, read by all criteria made of indicators.
            groups: weight names by group.
        """
        # Also criteria registered with a reactivation of their own get the report's: the page compares their formulas.
        found = {}
        for name, criterion in CRITERIA.items():
            if isinstance(criterion, IndicatorCriterion):
                found[name] = criterion.combine(indicators, groups)
            elif criterion.needs == "scores":
                found[name] = load_scores(self.scoring, name)
        return found

    def read(self) -> tuple[RedundancyReport, dict[str, Tensor]]:
        """The workers' results: the figures, and the tensors of the feature pictures."""
        report = RedundancyReport.model_validate_json(self.folder.join("report.json").read_bytes())
        return report, load_tensors(self.folder.join("features.safetensors").read_bytes())


def check_reportable(workload: Workload) -> None:
    """Find out whether a workload has the parts for a redundancy report.

    Raises:
        UserError: its model gives no feature maps, or its task does not tell the places of objects.
    """
    # Checked before any scoring: a search does without these parts, so a workload may well lack them.
    for owner, part, name in (
        ("model", workload.build(), "features"),
        ("task", workload.task, "occupied"),
        ("task", workload.task, "map_extent"),
    ):
        if not hasattr(part, name):
            raise UserError(
                f"no redundancy report of {workload.name}: its {owner} has no `{name}`; "
                "altermoma_ray.workloads.protocols describes it"
            )


def plan_report(plan: SearchPlan, criterion: str, pruned: Location | None, sparsity: float | None) -> RedundancyJob:
    """The job of a report.

    Example:
        A report which prunes a model of its own by AlterMOMA::

            job = plan_report(plan, "altermoma", pruned=None, sparsity=0.9)

    Args:
        plan: a search's plan with the report's data, checkpoint and seed; the plan itself is not saved.
        criterion: a key of ``CRITERIA``; prunes where ``pruned`` is None.
        pruned: folder with ``model.safetensors`` and ``masks.safetensors``, for example a trial's.
        sparsity: of the compared criteria; None takes the sparsity of ``pruned``, or of the plan.

    Raises:
        UserError: ``pruned`` holds no pruned model, or one of another shape.
    """
    if pruned is not None:
        masks = PrunedModel(pruned, plan.workload).check(plan.workload.load().load(Location.parse(plan.checkpoint))[0])
        sparsity = masks.sparsity() if sparsity is None else sparsity
    total = plan.sparsity if sparsity is None else sparsity
    published = plan.space.setting(plan.space.published(total), plan.sizes, total)
    # Of the criterion only its factors are taken. The reactivation stays the published one, shared by all compared
    # criteria.
    own = CRITERIA[criterion]
    names = [name for name in OWN_FIELDS if name in parameter_names(own)] if own.needs == "indicators" else []
    factors = {name: getattr(own, name) for name in names}
    setting = PruningSetting.model_validate({**published.model_dump(), "criterion": criterion, **factors})
    job = plan.trial_job()
    assert published.reactivation is not None
    scoring = job.scoring.model_copy(update=dict(Wanted(settings=(published.reactivation,))))
    task = TrialTask(number=0, setting=setting)
    # The name's hash covers everything with an effect on the figures: the same command finds its report again, and
    # another one never overwrites it. Nothing of the machine enters, so a moved storage keeps its names.
    identity = [
        scoring.checkpoint_hash,
        scoring.folder().name,
        plan.validation_part,
        setting.model_dump(mode="json"),
        job.fine_tune_epochs,
        job.seed,
        None if pruned is None else pruned.kept_in(plan.storage),
        total,
    ]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    label = criterion if pruned is None else "pruned"
    folder = plan.storage.join("reports", f"redundancy-{plan.model}-{label}-{total:.3g}-{key}")
    # Without rungs: the trial runs to its end in one go, and is evaluated only there.
    trial = job.model_copy(update={"scoring": scoring, "folder": str(folder), "rungs": ()})
    return RedundancyJob(
        dataset=plan.dataset,
        model=plan.model,
        trial=trial,
        task=task,
        pruned=None if pruned is None else str(pruned),
    )


class PrunedModel:
    """A pruned, fine-tuned model in the folder of a trial.

    The masks are read once, the model at every call::

        pruned = PrunedModel(job.pruned_folder, workload)
        model, trial = pruned.load()
        pruned.masks.sparsity()
    """

    def __init__(self, folder: Location, workload: WorkloadReference) -> None:
        self.folder, self._workload = folder, workload

    @cached_property
    def masks(self) -> Masks:
        """The masks of the kept weights.

        Raises:
            UserError: there are no masks, or the file is damaged.
        """
        file = self.folder.join("masks.safetensors")
        try:
            return Masks.from_tensors(load_tensors(file.read_bytes()))
        except FileNotFoundError as error:
            raise UserError(
                f"no masks.safetensors in {self.folder}; give --pruned the folder of a trial that finished, "
                "such as storage/searches/NAME/trials/0000"
            ) from error
        except Exception as error:
            raise UserError(f"{file} holds no masks ({error}); give --pruned the folder of a trial") from error

    def load(self) -> tuple[nn.Module, dict[str, object]]:
        """The fine-tuned model on the CPU, and the configuration of its trial; empty for a model of unknown origin."""
        model, metadata = self._workload.load().load(self.folder.join("model.safetensors"))
        return model, metadata.get("trial", {})

    def check(self, unpruned: nn.Module) -> Masks:
        """The masks, if made for this unpruned model.

        Raises:
            UserError: the masks, or the configuration, are another model's.
        """
        # Shapes alone would pass two models which differ in a setting without weights, for example a grid's extent.
        shapes = {name: weight.shape for name, weight in prunable_weights(unpruned).items()}
        same = {name: mask.shape for name, mask in self.masks.items()} == shapes
        pruned, _ = self.load()
        if same and {name: weight.shape for name, weight in prunable_weights(pruned).items()} != shapes:
            raise UserError(
                f"{self.folder} holds a model whose channels were removed, but the report compares single weights; "
                "give --pruned a trial of granularity 'weight'"
            )
        if not same or getattr(pruned, "config", None) != getattr(unpruned, "config", None):
            raise UserError(
                f"{self.folder} holds another model than the checkpoint; give the --checkpoint it was made of"
            )
        return self.masks
