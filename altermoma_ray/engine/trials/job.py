"""The description of a trial: the job shared by all trials of a search, and the task of one trial."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from altermoma_ray.engine.scoring.indicators import ScoringJob
from altermoma_ray.engine.space import PruningSetting
from altermoma_ray.engine.trials.budget import Budget
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.workloads.protocols import ValidationPart
from altermoma_ray.workloads.reference import WorkloadReference


class TrialJob(BaseModel):
    """The part common to all trials of a search; small, picklable, made of names and numbers.

    A job and a task make one trial, on any machine with access to the storage::

        for report in TrialRunner(job).run(TrialTask(number=7, setting=setting)):
            print(report["step"])
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    scoring: ScoringJob
    """Names the indicators, the data and the checkpoint; wants everything any trial of the search may read."""
    validation_part: ValidationPart
    """The validation samples for the evaluation of trials."""
    folder: Place
    """URI of the search's folder in storage."""
    seed: int
    """Draws the order of the fine-tuning data."""
    fine_tune_epochs: float
    iterative_rounds: int
    pruning_phase: float
    rungs: tuple[float, ...]
    rung_samples: int | float
    """Number of validation samples at a rung, or below 1 their share."""
    rung_statistics: int = 0
    """Training batches for new normalisation statistics at a rung, see :attr:`SearchSpace.rung_statistics`."""
    without: tuple[str, ...] = ()
    """Modalities masked one by one in further evaluations, for metrics of the model without them."""
    save_every: float
    """Seconds after which a trial keeps its state again; a trial whose process or node dies goes on from there."""
    costs: Place | None = None
    """File of the model's cost table; None where nobody asks for costs."""
    budget: Budget = Budget()
    """Limits of costs; each trial prunes as little as they allow. Without a limit the setting's sparsity holds."""

    @property
    def workload(self) -> WorkloadReference:
        """The model, data and task to prune."""
        return self.scoring.workload

    def rung_size(self, size: int) -> int:
        """Greatest number of samples evaluated at a rung, of ``size`` validation samples."""
        return math.ceil(self.rung_samples * size) if self.rung_samples < 1 else int(self.rung_samples)

    def trial_folder(self, number: int) -> Location:
        """The folder of the files of trial ``number``."""
        # Four digits sort by number in listings up to trial 9999; later numbers are longer, and still unique.
        return Location.parse(self.folder).join("trials", f"{number:04d}")

    def scoring_of(self, trial: TrialTask) -> ScoringJob:
        """The scoring job of one trial: its own draw of the data, and no more than its criterion needs."""
        # All the fields below may differ from the job's: a trial of a comparison has its own seed, a setting its own
        # number of scoring batches and norms. Everything else, the checkpoint above all, stays the search's.
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
        """The seed for a trial's scoring data and the order of its fine-tuning."""
        # Compared with None throughout: 0 is a seed, and 0 epochs are no fine-tuning.
        return self.seed if trial.seed is None else trial.seed

    def epochs_of(self, trial: TrialTask) -> float:
        """Length of a trial's fine-tuning in epochs."""
        return self.fine_tune_epochs if trial.fine_tune_epochs is None else trial.fine_tune_epochs

    def params_of(self, trial: TrialTask) -> dict[str, str | float | int | bool | None]:
        """A trial's setting as flat names and values, for a row of a table."""
        # The setting stands behind the job's number of scoring batches, and replaces the number where set.
        return {
            "scoring_batches": self.scoring.scoring_batches,
            **trial.setting.flat(),
            "seed": self.seed_of(trial),
            "fine_tune_epochs": self.epochs_of(trial),
            "label": trial.label or trial.setting.criterion,
        }


class TrialTask(BaseModel):
    """One trial of a search: its setting, and the rung at which it stops.

    A promoted trial is the same task with a later rung::

        further = task.model_copy(update={"until": 1})
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    setting: PruningSetting
    until: int | None = None
    """The rung at which the trial stops, to go on from there if promoted; None runs the trial to its end."""
    seed: int | None = None
    """Draws the scoring data and the order of fine-tuning; None takes the job's."""
    fine_tune_epochs: float | None = None
    """Length of fine-tuning; None takes the job's."""
    label: str | None = None
    """Name of this trial's setting in a comparison; None takes its criterion."""
