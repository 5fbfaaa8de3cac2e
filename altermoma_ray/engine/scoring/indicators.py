"""What is scored once and read by many trials: indicators, scores and masks, and everything they depend on.

DeCI and ReRI do not depend on ratios, α, β or the schedule, nor do the scores of one-shot criteria. They are written to
storage under a key made of everything they do depend on, and every trial of every later search reads them. Criteria
that prune in rounds leave masks for one target:

    indicators/<key of checkpoint, data, batches, norms, seed>/deci.safetensors
                                                              /reri-B<steps>-lr<rate>[-last-batch].safetensors
                                                              /scores-<criterion>-<its key>.safetensors
                                                              /masks-<criterion>-<key of it and the target>.safetensors

A criterion's key covers its parameters and its source, so that an edited one does not read what it stored before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from altermoma_ray.places import Place
from altermoma_ray.pruning import Indicators, Masks, NormMode, Reactivation, Weights
from altermoma_ray.pruning.criteria import CRITERIA, AlterMOMA, ScoreCriterion
from altermoma_ray.storage import Location
from altermoma_ray.workloads.reference import WorkloadReference

DECI = "deci"


class MaskRequest(BaseModel):
    """Masks of a criterion that prunes in rounds, for one target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: str
    sparsity: float
    ratios: dict[str, float] | None = None

    def __hash__(self) -> int:
        return hash(self.file)

    @property
    def file(self) -> str:
        own = CRITERIA[self.criterion].key()
        key = hashlib.sha256(json.dumps([own, self.sparsity, self.ratios], sort_keys=True).encode()).hexdigest()[:12]
        return f"masks-{self.criterion}-{key}.safetensors"


class ScoringJob(BaseModel):
    """Everything that indicators depend on, and what is wanted of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    workload: WorkloadReference
    checkpoint: Place
    """URI of the safetensors checkpoint with θ_init."""
    checkpoint_hash: str
    scoring_batches: int
    """Batches of D."""
    batch_size: int
    micro_batch_size: int
    """Samples of one forward-backward pass."""
    seed: int
    """Draws D and the reactivation batches from the training split."""
    norms: NormMode = "running"
    """What normalisation layers use while DeCI and ReRI are taken: running statistics, or those of the batch."""
    settings: tuple[Reactivation, ...] = ()
    """Reactivations whose ReRI, and with it DeCI, is wanted."""
    criteria: tuple[str, ...] = ()
    """One-shot criteria whose scores are wanted; ``deci`` alone stands for DeCI."""
    masks: tuple[MaskRequest, ...] = ()
    """Masks that are wanted."""

    def folder(self) -> Location:
        """Where these indicators lie."""
        identity = [
            "indicators-2",
            self.checkpoint_hash,
            *self.workload.load().source().fingerprint("train").split("/"),  # as earlier releases wrote their keys
            self.scoring_batches,
            self.batch_size,
            self.micro_batch_size,
            self.seed,
            self.norms,
        ]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return self.workload.storage_location.join("indicators", key)

    def missing(self) -> ScoringJob:
        """The same job, wanting only what is not in storage yet."""
        folder = self.folder()
        there = {file.name for file in folder.children()} if folder.exists() else set()
        return self.model_copy(
            update={
                "settings": tuple(s for s in self.settings if not {DECI_FILE, reri_file(s)} <= there),
                "criteria": tuple(name for name in self.criteria if scores_file(name) not in there),
                "masks": tuple(request for request in self.masks if request.file not in there),
            }
        )

    def __len__(self) -> int:
        """How many things are wanted."""
        return len(self.settings) + len(self.criteria) + len(self.masks)

    @property
    def wants_contribution(self) -> bool:
        """Whether DeCI is wanted, for itself or beside a ReRI."""
        return bool(self.settings) or DECI in self.criteria


def merged(jobs: Iterable[ScoringJob]) -> list[ScoringJob]:
    """One job for each folder, wanting what all of its jobs want, once."""
    found: dict[str, ScoringJob] = {}
    for job in jobs:
        key = str(job.folder())
        if key in found:
            wanted = {
                name: tuple(dict.fromkeys((*getattr(found[key], name), *getattr(job, name))))
                for name in ("settings", "criteria", "masks")
            }
            found[key] = found[key].model_copy(update=wanted)
        else:
            found[key] = job
    return list(found.values())


def load_indicators(job: ScoringJob, setting: Reactivation | None) -> Indicators:
    """The indicators of one reactivation from storage; None leaves ReRI out."""
    folder = job.folder()
    deci = load_tensors(folder.join(DECI_FILE).read_bytes())
    reri: dict[str, Weights] = {}
    if setting is not None:
        for key, tensor in load_tensors(folder.join(reri_file(setting)).read_bytes()).items():
            modality, name = key.split("/", 1)
            reri.setdefault(modality, {})[name] = tensor
    return Indicators(contribution=deci, redundancy=reri)


def load_scores(job: ScoringJob, criterion: str) -> Weights:
    """The scores of a one-shot criterion from storage."""
    return load_tensors(job.folder().join(scores_file(criterion)).read_bytes())


def load_masks(job: ScoringJob, request: MaskRequest) -> Masks:
    """The masks of a criterion that prunes in rounds, from storage."""
    return Masks.from_tensors(load_tensors(job.folder().join(request.file).read_bytes()))


def save_scored(file: Location, tensors: Mapping[str, Tensor], seconds: float) -> None:
    """Write indicators, scores or masks, and how long they took."""
    cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    file.write_bytes(save_tensors(cpu, metadata={"seconds": f"{seconds:.3f}"}))


def seconds_to_score(job: ScoringJob) -> float:
    """How long it took to compute all that a job wants, wherever that was done."""
    folder = job.folder()
    files = [reri_file(setting) for setting in job.settings] + [scores_file(name) for name in job.criteria]
    files += [request.file for request in job.masks] + ([DECI_FILE] if job.settings else [])
    return sum(_seconds(folder.join(name)) for name in files)


def _seconds(file: Location) -> float:
    """The figure in a safetensors header: its length in 8 bytes, then JSON. The tensors behind it are not read."""
    length = int.from_bytes(file.read_part(0, 8), "little")
    header = json.loads(file.read_part(8, length))
    return float(header["__metadata__"]["seconds"])


def backward_passes(job: ScoringJob, modalities: int) -> int:
    """Batches that pass forward and backward.

    DeCI takes D; ReRI, for each mask, D before, and for each learning rate B steps and, at every B that is read off, D
    or the last batch.

    Args:
        job: what is wanted.
        modalities: how many the model can mask.
    """
    passes = job.scoring_batches if job.wants_contribution else 0
    if job.settings:
        rates = {setting.learning_rate for setting in job.settings}
        steps = sum(max(s.steps for s in job.settings if s.learning_rate == rate) for rate in rates)
        after = sum(1 if s.gradient == "last-batch" else job.scoring_batches for s in job.settings)
        passes += modalities * (job.scoring_batches + after + steps)
    names = [name for name in job.criteria if name != DECI] + [request.criterion for request in job.masks]
    return passes + sum(CRITERIA[name].passes(job.scoring_batches) for name in names)


def is_one_shot(criterion: str) -> bool:
    """Whether a criterion gives scores that any target can use."""
    return isinstance(CRITERIA[criterion], ScoreCriterion)


def combines_indicators(criterion: str) -> bool:
    """Whether a criterion combines DeCI and ReRI, so that of it only the indicators are kept."""
    return isinstance(CRITERIA.get(criterion), AlterMOMA)


def reri_file(setting: Reactivation) -> str:
    """Name of the file that holds the ReRI of a setting."""
    last = "-last-batch" if setting.gradient == "last-batch" else ""
    return f"reri-B{setting.steps}-lr{setting.learning_rate:g}{last}.safetensors"


def scores_file(criterion: str) -> str:
    """Name of the file that holds the scores of a one-shot criterion."""
    return DECI_FILE if criterion == DECI else f"scores-{criterion}-{CRITERIA[criterion].key()}.safetensors"


DECI_FILE = f"{DECI}.safetensors"
