"""What a trial is told: the job that all trials of a search share, and the task of one trial."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from altermoma_ray.engine.scoring.indicators import ScoringJob
from altermoma_ray.engine.space import PruningSetting
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.workloads.protocols import Part
from altermoma_ray.workloads.reference import WorkloadReference


class TrialJob(BaseModel):
    """What is the same for all trials of a search; small, picklable, made of names and numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    scoring: ScoringJob
    """Where the indicators, the data and the checkpoint are; wants what any trial of a search may ask for."""
    validation_part: Part
    """The validation samples that trials are evaluated on."""
    folder: Place
    """URI of the search's folder in storage."""
    seed: int
    """Draws the order of the fine-tuning data."""
    fine_tune_epochs: float
    iterative_rounds: int
    pruning_phase: float
    rungs: tuple[float, ...]
    rung_samples: int
    without: tuple[str, ...] = ()
    """Modalities that every evaluation masks once more, for metrics of the model without them."""
    save_every: float
    """Seconds after which a trial keeps its state again, to go on from when its process or node dies."""

    @property
    def workload(self) -> WorkloadReference:
        """What is pruned."""
        return self.scoring.workload

    def trial_folder(self, number: int) -> Location:
        """Where trial ``number`` leaves its files."""
        return Location.parse(self.folder).join("trials", f"{number:04d}")

    def scoring_of(self, trial: TrialTask) -> ScoringJob:
        """What one trial reads: its own draw of the data, and no more than its criterion needs."""
        setting = trial.setting
        return self.scoring.model_copy(
            update={
                **dict(setting.wanted()),
                "seed": self.seed_of(trial),
                "scoring_batches": setting.scoring_batches or self.scoring.scoring_batches,
                "norms": setting.norms,
            }
        )

    def seed_of(self, trial: TrialTask) -> int:
        """Draws a trial's scoring data and the order of its fine-tuning."""
        return self.seed if trial.seed is None else trial.seed

    def epochs_of(self, trial: TrialTask) -> float:
        """Length of a trial's fine-tuning."""
        return self.fine_tune_epochs if trial.fine_tune_epochs is None else trial.fine_tune_epochs

    def params_of(self, trial: TrialTask) -> dict[str, str | float | int | bool | None]:
        """A trial's setting as flat names and values."""
        return {
            "scoring_batches": self.scoring.scoring_batches,
            **trial.setting.flat(),
            "seed": self.seed_of(trial),
            "fine_tune_epochs": self.epochs_of(trial),
            "label": trial.label or trial.setting.criterion,
        }


class TrialTask(BaseModel):
    """One trial of a search: its setting, and how far it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    setting: PruningSetting
    until: int | None = None
    """The rung at which it stops, to go on from there if it is promoted; None runs it to its end."""
    seed: int | None = None
    """Draws the scoring data and the order of fine-tuning; None takes the job's."""
    fine_tune_epochs: float | None = None
    """Length of fine-tuning; None takes the job's."""
    label: str | None = None
    """What a comparison calls this trial's setting; None takes its criterion."""
