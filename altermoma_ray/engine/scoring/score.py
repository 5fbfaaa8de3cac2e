"""The scoring job: DeCI and ReRI of a checkpoint, over Ray Train workers, once for each reactivation setting.

How the work is shared. The unit is a micro-batch of a few samples. Those of a sum over D are split evenly over all
workers, and their gradients reduced once; those of a reactivation step likewise, and reduced before Adam moves. The
loss is a mean of per-sample losses, normalisation keeps its running statistics, micro-batches are the same on any
number of workers, and their gradients are summed in float64: so the result does not depend on the number of workers.
With at least twice as many workers as a batch has micro-batches, the two masking passes run at the same time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers, sum_over, worker_device
from altermoma_ray.engine.scoring.indicators import (
    DECI_FILE,
    ScoringJob,
    backward_passes,
    reri_file,
    save_scored,
)
from altermoma_ray.engine.scoring.requests import Wanted
from altermoma_ray.engine.training.batches import LazyBatches
from altermoma_ray.pruning import (
    Reactivation,
    Weights,
    check_masking,
    contribution,
    prunable_weights,
    redundancy,
)
from altermoma_ray.pruning.criteria import Problem, ScoreCriterion
from altermoma_ray.pruning.targets import Target
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import flow_of, group_function, groups_of, modalities_of

LEAST_TRAINING_BATCHES = 64
"""Least number of batches for a criterion that trains while it scores; it goes through these batches several times."""


def score(
    jobs: Sequence[ScoringJob], *, workers: int, gpus_per_worker: float = 0.0, scratch: Location | None = None
) -> int:
    """Make sure that everything the jobs want is in storage.

    Args:
        jobs: what is wanted.
        workers: Ray Train workers to share the work.
        gpus_per_worker: GPUs of each.
        scratch: where Ray may keep files meanwhile; None takes the jobs' storage.

    Returns:
        How many of the wanted things had to be computed; 0 when all were there.
    """
    missing = [job for job in (job.missing() for job in jobs) if len(job)]
    if missing:
        run_on_workers(
            _score_all,
            missing,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            storage=scratch or missing[0].workload.storage_location,
            describe="scoring",
            total=sum(backward_passes(job, modalities=_modalities(job)) for job in missing),
        )
    return sum(len(job) for job in missing)


def _modalities(job: ScoringJob) -> int:
    """How many modalities a job's model can mask; needed for the progress bar alone."""
    return len(job.workload.load().modalities) if job.settings else 0


def _score_all(jobs: Sequence[ScoringJob], reporter: Reporter | None = None) -> None:
    for job in jobs:
        # A reactivation that diverges leaves no file. Trials that ask for it try again alone, and fail with the reason.
        with contextlib.suppress(FloatingPointError):
            score_missing(job, reporter)


def score_missing(job: ScoringJob, reporter: Reporter | None = None) -> None:
    """Compute what a job wants and storage lacks: of a trial, masks for its own target, as a rule. All workers call it.

    Raises:
        FloatingPointError: see :func:`score_worker`.
    """
    missing, (_, world) = [job.missing()], rank_and_world()
    if world > 1:  # another trial may write meanwhile: rank 0's look at storage holds for all
        distributed.broadcast_object_list(missing)
    if len(missing[0]):
        score_worker(missing[0], reporter)
    if world > 1:
        distributed.barrier()  # rank 0 has written


def score_worker(job: ScoringJob, reporter: Reporter | None = None) -> None:
    """Compute this worker's share of what a job wants; rank 0 writes the files.

    Raises:
        FloatingPointError: a reactivation diverged, with all workers at once; everything else is in storage.
    """
    rank, _ = rank_and_world()
    folder = job.folder()
    worker = ScoringWorker(job, reporter)
    if job.settings:
        worker.check_masking()
    clock = _Clock()

    def save(name: str, tensors: Weights, seconds: float) -> None:
        if rank == 0:
            save_scored(folder.join(name), tensors, seconds)

    if job.wants_contribution and not folder.join(DECI_FILE).exists():
        save(DECI_FILE, worker.contribution(), clock.lap())
    diverged: list[FloatingPointError] = []
    for settings in _by_learning_rate(job.settings):
        try:
            reri = worker.redundancy(settings)
        except FloatingPointError as error:
            diverged.append(error)
            continue
        seconds = clock.lap() / sum(worker.passes(_alone(job, setting)) for setting in reri)
        for setting, tensors in reri.items():  # settings share passes: each is charged its part
            save(reri_file(setting), tensors, seconds * worker.passes(_alone(job, setting)))
    problem = worker.problem()
    for wanted in job.criteria:
        criterion = wanted.build()
        assert isinstance(criterion, ScoreCriterion)
        save(wanted.file, criterion.scores(problem), clock.lap())
    for request in job.masks:
        target = Target(groups=problem.groups, sparsity=request.sparsity, ratios=request.ratios)
        masks = request.build().masks(problem, target)
        save(request.file, masks.to_tensors(), clock.lap())
    if diverged:
        raise diverged[0]


def _by_learning_rate(settings: Sequence[Reactivation]) -> list[list[Reactivation]]:
    """Settings that share a trajectory."""
    found: dict[float, list[Reactivation]] = {}
    for setting in sorted(settings, key=lambda setting: setting.learning_rate):
        found.setdefault(setting.learning_rate, []).append(setting)
    return list(found.values())


def _alone(job: ScoringJob, setting: Reactivation) -> ScoringJob:
    return job.model_copy(update=dict(Wanted(settings=(setting,))))


class _Clock:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last


class ScoringWorker:
    """One worker's model, data and share of the passes."""

    def __init__(self, job: ScoringJob, reporter: Reporter | None = None) -> None:
        self.job, self._reporter = job, reporter
        self._rank, self._world = rank_and_world()
        self._device = worker_device()
        workload = job.workload.load()
        self.model, _ = workload.load(Location.parse(job.checkpoint))
        self.model.to(self._device)
        self.names = list(prunable_weights(self.model))
        self.groups = groups_of(self.model, self.names)
        self.modalities = modalities_of(self.model)
        self._task = workload.task_for(self.model)
        data_source = workload.source()
        dataset = data_source.dataset(data_source.rows("train"), augment=False, seed=job.seed)
        steps = max((setting.steps for setting in job.settings), default=0)
        if job.masks or job.criteria:
            steps = max(steps, LEAST_TRAINING_BATCHES)
        # Two streams, so that neither D nor the reactivation batches depend on how many there are of the other.
        data = _draw(len(dataset), job, job.scoring_batches, stream=0)
        training = _draw(len(dataset), job, steps, stream=1)
        parts = [part for batch in (*data, *training) for part in batch]
        self._micro_batches = LazyBatches(dataset, data_source.collate, parts)
        numbers = iter(range(len(self._micro_batches)))
        self.data = [[next(numbers) for _ in batch] for batch in data]
        self.reactivation_data = [[next(numbers) for _ in batch] for batch in training]
        self.everyone = Share(self._rank, self._world, None)
        self._share, self._passes = _passes(self._rank, self._world, len(self.data[0]), self.modalities)

    def passes(self, job: ScoringJob) -> int:
        """Batches that pass forward and backward for a job on this worker's model."""
        return backward_passes(job, modalities=len(self.modalities))

    def problem(self) -> Problem:
        """The same for every criterion: the model, its groups, this worker's part of the data."""
        share = self.everyone
        return Problem(
            model=self.model,
            groups=self.groups,
            modalities=self.modalities,
            loss=self.loss,
            batches=share.of_sum(self.data),
            training_batches=[share.of_batch(batch) for batch in self.reactivation_data],
            flow=flow_of(self.model, self._micro_batches[0].to(self._device)),
            norms=self.job.norms,
            reduce=share.reduce,
            seed=self.job.seed,
        )

    def loss(self, share: Sequence[int], masked: frozenset[str]) -> Iterator[Tensor]:
        """The loss of micro-batches, one after another, as parts of their batch's mean."""
        for number in share:
            batch = self._micro_batches[number].to(self._device)
            yield self._task.loss(self.model(batch, masked), batch)["total"].sum() / self.job.batch_size
            if self._reporter is not None:
                self._reporter.advance(len(batch) / self.job.batch_size)

    def check_masking(self) -> None:
        """Find out on a micro-batch whether the model masks its modalities, before all of them are paid for.

        Raises:
            UserError: it does not; raised on all workers.
        """
        share, reporter, self._reporter = self.everyone, self._reporter, None  # no progress in what is wanted
        parts = [share.of_sum([[part]])[0] for batch in self.data for part in batch]
        check_masking(
            self.model, self.loss, self.groups, self.modalities, parts, reduce=share.reduce, norms=self.job.norms
        )
        self._reporter = reporter

    def scored(self, masked: str) -> list[str]:
        """The weights that the pass with a modality masked scores."""
        group_of = group_function(self.model)
        return [name for name in self.names if group_of(name) != masked]

    def contribution(self) -> Weights:
        """DeCI of every prunable weight, the same on all workers."""
        share = self.everyone
        data = share.of_sum(self.data)
        return contribution(self.model, self.names, self.loss, data, reduce=share.reduce, norms=self.job.norms)

    def redundancy(self, settings: Sequence[Reactivation]) -> dict[Reactivation, dict[str, Tensor]]:
        """ReRI by setting, keyed ``<masked modality>/<weight>``; complete on rank 0.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; raised on all workers.
        """
        found: dict[Reactivation, dict[str, Tensor]] = {setting: {} for setting in settings}
        failure: str | None = None
        try:
            for modality in self._passes:
                for setting, weights in self._redundancy(modality, settings).items():
                    found[setting].update({f"{modality}/{name}": tensor.cpu() for name, tensor in weights.items()})
        except FloatingPointError as error:
            failure = str(error)
        if len(self._passes) < len(self.modalities):
            failure = _exchange(found, failure, self._rank, self._world)
        if failure is not None:
            raise FloatingPointError(failure)
        return found

    def _redundancy(self, modality: str, settings: Sequence[Reactivation]) -> dict[Reactivation, Weights]:
        share = self._share
        return redundancy(
            self.model,
            self.scored(modality),
            self.loss,
            modality,
            share.of_sum(self.data),
            [share.of_batch(batch) for batch in self.reactivation_data],
            list(settings),
            reduce=share.reduce,
            norms=self.job.norms,
        )


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


def _passes(rank: int, world: int, parts: int, modalities: tuple[str, ...]) -> tuple[Share, tuple[str, ...]]:
    """This worker's share of the masking passes: all in turn, or one of two beside the other half of the workers."""
    if world < 2 * parts or len(modalities) != 2:
        return Share(rank, world, None), modalities
    half = world // 2
    members = [list(range(half)), list(range(half, world))]
    groups = [distributed.new_group(ranks) for ranks in members]  # every worker must take part in making both
    side = int(rank >= half)
    return Share(rank - side * half, len(members[side]), groups[side]), (modalities[side],)


def _exchange(found: dict[Reactivation, dict[str, Tensor]], failure: str | None, rank: int, world: int) -> str | None:
    """Bring the second half's pass to rank 0, and the failure of either half to all."""
    failures: list[str | None] = [None] * world
    distributed.all_gather_object(failures, failure)
    if any(failures):
        return next(text for text in failures if text)
    parts: list[Any] | None = [None] * world if rank == 0 else None
    leader = rank == world // 2
    distributed.gather_object(found if leader else None, parts, dst=0)
    for part in parts or []:
        for setting, tensors in (part or {}).items():
            found[setting].update(tensors)
    return None


def _draw(samples: int, job: ScoringJob, batches: int, *, stream: int) -> list[list[list[int]]]:
    """Batches drawn by the seed, as positions of their micro-batches; fewer batches are a prefix of more."""
    generator = torch.Generator().manual_seed(job.seed + (stream << 32))
    order: list[int] = []
    while len(order) < batches * job.batch_size:  # a small data set is gone through more than once
        order += torch.randperm(samples, generator=generator).tolist()
    drawn = [order[start : start + job.batch_size] for start in range(0, batches * job.batch_size, job.batch_size)]
    size = job.micro_batch_size
    return [[batch[start : start + size] for start in range(0, job.batch_size, size)] for batch in drawn]
