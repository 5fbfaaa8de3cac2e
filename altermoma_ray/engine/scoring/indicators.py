"""Indicators, scores and masks in storage: scored once, read by many trials.

DeCI and ReRI do not depend on ratios, α, β or the schedule, nor do the scores of one-shot criteria. They are written to
storage under a key made of everything they do depend on, and every trial of every later search reads them. Criteria
which prune in rounds leave masks for one target::

    indicators/<key of checkpoint, data, batches, norms, seed>/deci.safetensors
                                                              /reri-B<steps>-lr<rate>[-last-batch].safetensors
                                                              /scores-<criterion>-<its key>.safetensors
                                                              /masks-<criterion>-<key of it and the target>.safetensors

The key of a criterion covers its parameters and its source. A criterion with an edited source or other parameters
therefore has files of its own, and never reads scores of its former self.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from pydantic import ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from altermoma_ray.engine.scoring.requests import MaskRequest, ScoreRequest, Wanted
from altermoma_ray.places import Place
from altermoma_ray.pruning import Indicators, Masks, NormMode, Reactivation, Weights
from altermoma_ray.storage import Location
from altermoma_ray.workloads.reference import WorkloadReference

DECI_FILE = "deci.safetensors"


class ScoringJob(Wanted):
    """All dependencies of indicators, and the wanted ones among the indicators, scores and masks.

    One job fills one folder of storage::

        score([job], workers=4)
        indicators = load_indicators(job, job.settings[0])
    """

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
    """Statistics in normalisation layers while DeCI and ReRI are taken: the running ones, or the batch's own."""

    def folder(self) -> Location:
        """The folder of the job's indicators in storage."""
        # The workload enters by its data's fingerprint alone: the checkpoint's hash stands for the model. The key is a
        # hash of this list in this order: another order would orphan all indicators in users' storage.
        identity = [
            "indicators-2",
            self.checkpoint_hash,
            *self.workload.load().source().fingerprint("train").split("/"),  # as earlier releases wrote their keys
            self.scoring_batches,
            self.batch_size,
            # With norms="batch", and for criteria which sum magnitudes, the size of a micro-batch alters the scores.
            self.micro_batch_size,
            self.seed,
            self.norms,
        ]
        # A user's file holds the loss and the model's code beside the data: an edited file scores anew.
        identity += [self.workload.sha256] if self.workload.sha256 else []
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return self.workload.storage_location.join("indicators", key)

    def missing(self) -> ScoringJob:
        """The same job without the files which are in storage already."""
        folder = self.folder()
        # One listing in place of a question per file: on s3:// or gs:// every question is a round trip.
        there = {file.name for file in folder.children()} if folder.exists() else set()
        return self.model_copy(
            update={
                "contribution": self.contribution and DECI_FILE not in there,
                # A reactivation is read together with DeCI. Where only its ReRI is left, the setting stays wanted.
                "settings": tuple(s for s in self.settings if not {DECI_FILE, reri_file(s)} <= there),
                "criteria": tuple(request for request in self.criteria if request.file not in there),
                "masks": tuple(request for request in self.masks if request.file not in there),
            }
        )

    @property
    def files(self) -> list[str]:
        """Names of the files with all wanted indicators, scores and masks."""
        indicators = [DECI_FILE] if self.wants_contribution else []
        indicators += [reri_file(setting) for setting in self.settings]
        requests: list[ScoreRequest | MaskRequest] = [*self.criteria, *self.masks]
        return indicators + [request.file for request in requests]


def merged(jobs: Iterable[ScoringJob]) -> list[ScoringJob]:
    """One job for each folder; the job wants everything wanted by any job of the same folder, each thing once.

    Example:
        Two trials differ in β only, and share their indicators::

            len(merged([job.scoring_of(first), job.scoring_of(second)]))    # 1
    """
    found: dict[str, ScoringJob] = {}
    for job in jobs:
        key = str(job.folder())
        if key in found:
            # Unlike a set, dict.fromkeys keeps the order: a search stopped early has the files of its first trials.
            wanted: dict[str, object] = {
                name: tuple(dict.fromkeys((*getattr(found[key], name), *getattr(job, name))))
                for name in ("settings", "criteria", "masks")
            }
            wanted["contribution"] = found[key].contribution or job.contribution
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


def load_scores(job: ScoringJob, criterion: str | ScoreRequest) -> Weights:
    """The scores of a criterion from storage; a name stands for the criterion as registered."""
    return load_tensors(job.folder().join(ScoreRequest.model_validate(criterion).file).read_bytes())


def load_masks(job: ScoringJob, request: MaskRequest) -> Masks:
    """The masks of a criterion which prunes in rounds, from storage."""
    return Masks.from_tensors(load_tensors(job.folder().join(request.file).read_bytes()))


def save_scored(file: Location, tensors: Mapping[str, Tensor], seconds: float) -> None:
    """Write indicators, scores or masks.

    Args:
        file: a file of the job's folder.
        tensors: on any device.
        seconds: time of their computation, written into the file's header.
    """
    # safetensors refuses tensors which are views with strides, for example transposed weights.
    cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    file.write_bytes(save_tensors(cpu, metadata={"seconds": f"{seconds:.3f}"}))


def seconds_to_score(job: ScoringJob) -> float:
    """Seconds of computing everything a job wants, summed over its files, whichever search computed them."""
    # A trial is charged for scoring also where an earlier search had paid: costs of criteria stay comparable.
    folder = job.folder()
    return sum(_seconds(folder.join(name)) for name in job.files)


def _seconds(file: Location) -> float:
    """The figure in a safetensors header: its length in 8 bytes, then JSON. The tensors behind it are not read."""
    # Only the header is asked for: the tensors of a large model would be gigabytes from a bucket, for one number.
    length = int.from_bytes(file.read_part(0, 8), "little")
    header = json.loads(file.read_part(8, length))
    return float(header["__metadata__"]["seconds"])


def backward_passes(job: ScoringJob, modalities: int) -> int:
    """Number of batches which pass forward and backward.

    DeCI takes D. ReRI takes, for each mask, D before the reactivation; for each learning rate the B steps of the
    longest reactivation; and for each setting D, or the last batch, after its own B steps.

    Args:
        job: the wanted indicators, scores and masks.
        modalities: number of modalities the model can mask.
    """
    passes = job.scoring_batches if job.wants_contribution else 0
    if job.settings:
        rates = {setting.learning_rate for setting in job.settings}
        # Settings of one learning rate are points on one trajectory: only the longest is trained.
        steps = sum(max(s.steps for s in job.settings if s.learning_rate == rate) for rate in rates)
        after = sum(1 if s.gradient == "last-batch" else job.scoring_batches for s in job.settings)
        passes += modalities * (job.scoring_batches + after + steps)
    requests: list[ScoreRequest | MaskRequest] = [*job.criteria, *job.masks]
    return passes + sum(request.build().passes(job.scoring_batches) for request in requests)


def reri_file(setting: Reactivation) -> str:
    """Name of the file with the ReRI of a setting.

    >>> reri_file(Reactivation(steps=8, learning_rate=1e-3))
    'reri-B8-lr0.001.safetensors'
    """
    # The usual gradient adds nothing to the name, so files from before there was a choice are still found.
    last = "-last-batch" if setting.gradient == "last-batch" else ""
    return f"reri-B{setting.steps}-lr{setting.learning_rate:g}{last}.safetensors"


def scores_file(criterion: str) -> str:
    """Name of the file with the scores of a criterion as registered."""
    return ScoreRequest(criterion=criterion).file
