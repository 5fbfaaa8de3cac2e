"""Where indicators are kept, and everything they depend on.

Indicators do not depend on ratios, α, β or the schedule, so they are written to storage under a key made of everything
they do depend on, and every trial of every later search reads them:

    indicators/<key of checkpoint, data, batches, seed>/deci.safetensors
                                                       /reri-B<steps>-lr<rate>.safetensors
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors

from altermoma_ray.engine.source import DataSource
from altermoma_ray.pruning import Indicators, Reactivation, Weights
from altermoma_ray.storage import Location

DECI_FILE = "deci.safetensors"
MODALITIES = ("lidar", "camera")
"""The order in which Algorithm 1 masks them."""


class ScoringJob(BaseModel):
    """Everything that indicators depend on, and the settings that are wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    source: DataSource
    checkpoint: str
    """URI of the safetensors checkpoint with θ_init."""
    checkpoint_hash: str
    scoring_batches: int
    """Batches of D."""
    batch_size: int
    micro_batch_size: int
    """Samples of one forward-backward pass."""
    seed: int
    """Draws D and the reactivation batches from the training split."""
    settings: tuple[Reactivation, ...]

    def folder(self) -> Location:
        """Where these indicators lie."""
        identity = [
            "indicators-1",
            self.checkpoint_hash,
            self.source.index().fingerprint,
            self.source.train_split,
            self.scoring_batches,
            self.batch_size,
            self.micro_batch_size,
            self.seed,
        ]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return self.source.storage_location.join("indicators", key)

    def missing(self) -> list[Reactivation]:
        """The settings whose indicators are not in storage yet."""
        folder = self.folder()
        if not folder.join(DECI_FILE).exists():
            return list(self.settings)
        return [setting for setting in self.settings if not folder.join(reri_file(setting)).exists()]


def load_indicators(job: ScoringJob, setting: Reactivation) -> Indicators:
    """The indicators of one setting, from storage."""
    folder = job.folder()
    deci = load_tensors(folder.join(DECI_FILE).read_bytes())
    reri: dict[str, Weights] = {modality: {} for modality in MODALITIES}
    for key, tensor in load_tensors(folder.join(reri_file(setting)).read_bytes()).items():
        modality, name = key.split("/", 1)
        reri[modality][name] = tensor
    return Indicators(contribution=deci, redundancy=reri)


def backward_passes(job: ScoringJob) -> int:
    """Batches that the equations pass forward and backward: D for DeCI; for each mask D before, and for each learning
    rate B steps and D at every B that is read off.
    """
    rates = {setting.learning_rate for setting in job.settings}
    steps = sum(max(s.steps for s in job.settings if s.learning_rate == rate) for rate in rates)
    after = job.scoring_batches * len(job.settings)
    return job.scoring_batches + 2 * (job.scoring_batches + steps + after)


def reri_file(setting: Reactivation) -> str:
    """Name of the file that holds the ReRI of a setting."""
    return f"reri-B{setting.steps}-lr{setting.learning_rate:g}.safetensors"
