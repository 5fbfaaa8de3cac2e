"""The scoring job: DeCI and ReRI of a checkpoint, over Ray Train workers, once for each reactivation setting.

Indicators do not depend on ratios, α, β or the schedule, so they are written to storage under a key made of everything
they do depend on, and every trial of every later search reads them:

    indicators/<key of checkpoint, data, batches, seed>/deci.safetensors
                                                       /reri-B<steps>-lr<rate>.safetensors

How the work is shared. The unit is a micro-batch of a few samples. Those of a sum over D are split evenly over all
workers, and their gradients reduced once; those of a reactivation step likewise, and reduced before Adam moves. The loss
is a mean of per-sample losses, normalisation keeps its running statistics, micro-batches are the same on any number of
workers, and their gradients are summed in float64: so the result does not depend on the number of workers. With at
least twice as many workers as a batch has micro-batches, the two masking passes run at the same time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from altermoma_ray.data.nuscenes import NuScenesDataset
from altermoma_ray.engine.loading import LazyBatches
from altermoma_ray.engine.source import DataSource
from altermoma_ray.engine.workers import Reporter, rank_and_world, run_on_workers, sum_over, worker_device
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.fusion import FusionModel
from altermoma_ray.pruning import Indicators, Reactivation, Weights, contribution, prunable_weights, redundancy
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection import DetectionTask

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
        if not folder.join("deci.safetensors").exists():
            return list(self.settings)
        return [setting for setting in self.settings if not folder.join(_file(setting)).exists()]


def score(job: ScoringJob, *, workers: int, gpus_per_worker: float = 0.0) -> int:
    """Make sure that the indicators of all settings of the job are in storage.

    Returns:
        How many settings had to be computed; 0 when all were there.
    """
    missing = job.missing()
    if missing:
        job = job.model_copy(update={"settings": tuple(missing)})
        run_on_workers(
            score_worker,
            job,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            describe="scoring",
            total=backward_passes(job),
        )
    return len(missing)


def load_indicators(job: ScoringJob, setting: Reactivation) -> Indicators:
    """The indicators of one setting, from storage."""
    folder = job.folder()
    deci = load_tensors(folder.join("deci.safetensors").read_bytes())
    reri: dict[str, Weights] = {modality: {} for modality in MODALITIES}
    for key, tensor in load_tensors(folder.join(_file(setting)).read_bytes()).items():
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


def score_worker(job: ScoringJob, reporter: Reporter | None = None) -> None:
    """What each worker of the scoring job runs; rank 0 writes the files."""
    rank, world = rank_and_world()
    device = worker_device()
    model, _ = load_checkpoint(Location.parse(job.checkpoint))
    model.to(device)
    task = DetectionTask(model.config.head)
    names = list(prunable_weights(model))
    folder = job.folder()
    dataset = NuScenesDataset(
        job.source.index(), job.source.training_rows(), model.config.inputs, augment=False, seed=job.seed
    )
    batches = _draw(len(dataset), job, job.scoring_batches + max(setting.steps for setting in job.settings))
    micro_batches = LazyBatches(dataset, [part for batch in batches for part in batch])
    numbers = iter(range(len(micro_batches)))
    numbered = [[next(numbers) for _ in batch] for batch in batches]
    data, reactivation_data = numbered[: job.scoring_batches], numbered[job.scoring_batches :]

    def loss(share: Sequence[int], masked: frozenset[str]) -> Iterator[Tensor]:
        for number in share:
            batch = micro_batches[number].to(device)
            yield task.loss(model(batch, masked), batch)["total"].sum() / job.batch_size
            if reporter is not None:
                reporter.advance(len(batch) / job.batch_size)

    deci_file = folder.join("deci.safetensors")
    if not deci_file.exists():
        everyone = Share(rank, world, None)
        deci = contribution(model, names, loss, everyone.of_sum(data), reduce=everyone.reduce)
        if rank == 0:
            deci_file.write_bytes(save_tensors({name: tensor.cpu() for name, tensor in deci.items()}))

    share, mine = _passes(rank, world, len(numbered[0]))
    found: dict[Reactivation, dict[str, Tensor]] = {setting: {} for setting in job.settings}
    for modality in mine:
        scored = [name for name in names if FusionModel.group_of(name) != modality]
        result = redundancy(
            model,
            scored,
            loss,
            modality,
            share.of_sum(data),
            [share.of_batch(batch) for batch in reactivation_data],
            list(job.settings),
            reduce=share.reduce,
        )
        for setting, weights in result.items():
            found[setting].update({f"{modality}/{name}": tensor.cpu() for name, tensor in weights.items()})
    _exchange(found, len(mine), rank, world)
    if rank == 0:
        for setting, tensors in found.items():
            folder.join(_file(setting)).write_bytes(save_tensors(tensors))


class Share:
    """One worker's part of the micro-batches, within a group of workers that sum their gradients."""

    def __init__(self, rank: int, world: int, group: distributed.ProcessGroup | None) -> None:
        self._rank, self._world = rank, world
        self.reduce: Callable[[list[Tensor]], None] = sum_over(group, world)

    def _span(self, count: int) -> tuple[int, int]:
        return self._rank * count // self._world, (self._rank + 1) * count // self._world

    def of_batch(self, batch: Sequence[int]) -> list[int]:
        """This worker's micro-batches of one batch."""
        start, stop = self._span(len(batch))
        return list(batch[start:stop])

    def of_sum(self, batches: Sequence[Sequence[int]]) -> list[list[int]]:
        """This worker's micro-batches of all batches together.

        As many entries as ``batches`` has, some empty, so that means over batches agree on all workers.
        """
        whole = [part for batch in batches for part in batch]
        start, stop = self._span(len(whole))
        own = whole[start:stop]
        return [own[number :: len(batches)] for number in range(len(batches))]


def _passes(rank: int, world: int, parts: int) -> tuple[Share, tuple[str, ...]]:
    """This worker's share of the masking passes: both in turn, or one of them beside the other half."""
    if world < 2 * parts:
        return Share(rank, world, None), MODALITIES
    half = world // 2
    members = [list(range(half)), list(range(half, world))]
    groups = [distributed.new_group(ranks) for ranks in members]  # every worker must take part in making both
    side = int(rank >= half)
    return Share(rank - side * half, len(members[side]), groups[side]), (MODALITIES[side],)


def _exchange(found: dict[Reactivation, dict[str, Tensor]], passes: int, rank: int, world: int) -> None:
    """Bring the second half's pass to rank 0, when the passes ran side by side."""
    if passes == len(MODALITIES):
        return
    parts: list[Any] | None = [None] * world if rank == 0 else None
    leader = rank == world // 2
    distributed.gather_object(found if leader else None, parts, dst=0)
    for part in parts or []:
        for setting, tensors in (part or {}).items():
            found[setting].update(tensors)


def _draw(samples: int, job: ScoringJob, batches: int) -> list[list[list[int]]]:
    """Batches drawn by the seed, as positions of their micro-batches; fewer batches are a prefix of more."""
    generator = torch.Generator().manual_seed(job.seed)
    order: list[int] = []
    while len(order) < batches * job.batch_size:  # a small data set is gone through more than once
        order += torch.randperm(samples, generator=generator).tolist()
    drawn = [order[start : start + job.batch_size] for start in range(0, batches * job.batch_size, job.batch_size)]
    size = job.micro_batch_size
    return [[batch[start : start + size] for start in range(0, job.batch_size, size)] for batch in drawn]


def _file(setting: Reactivation) -> str:
    return f"reri-B{setting.steps}-lr{setting.learning_rate:g}.safetensors"
