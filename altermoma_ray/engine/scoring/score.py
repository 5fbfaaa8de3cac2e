"""The scoring job: DeCI and ReRI of a checkpoint, over Ray Train workers, once for each reactivation setting.

How the work is shared. The unit is a micro-batch of a few samples. The micro-batches of D are split evenly over all
workers, and their gradients reduced once. The micro-batches of a reactivation step are split likewise, and their
gradients reduced before Adam moves. With at least twice as many workers as a batch has micro-batches, the two masking
passes run at the same time.

The result does not depend on the number of workers: the loss is a mean of per-sample losses, normalisation keeps its
running statistics, micro-batches are the same on any number of workers, and gradients are summed in float64.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as distributed
from torch import Tensor

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers, worker_device
from altermoma_ray.engine.scoring.indicators import (
    DECI_FILE,
    ScoringJob,
    backward_passes,
    reri_file,
    save_scored,
)
from altermoma_ray.engine.scoring.requests import MaskRequest, Wanted
from altermoma_ray.engine.scoring.sharing import Share, exchange, passes_of
from altermoma_ray.engine.scoring.units import bound_units
from altermoma_ray.engine.training.batches import LazyBatches, RowLoader
from altermoma_ray.pruning import (
    Masks,
    Reactivation,
    Weights,
    check_masking,
    contribution,
    prunable_weights,
    redundancy,
)
from altermoma_ray.pruning.criteria import Problem, ScoreCriterion
from altermoma_ray.pruning.targets import OutOfReach, Target
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import flow_of, group_function, groups_of, modalities_of

LEAST_TRAINING_BATCHES = 64
"""Least number of batches for a criterion which trains while scoring; the criterion reads them several times."""


def score(
    jobs: Sequence[ScoringJob], *, workers: int, gpus_per_worker: float = 0.0, scratch: Location | None = None
) -> int:
    """Put everything wanted by the jobs into storage, as far as storage lacks a part.

    A second call of the same jobs computes nothing::

        score(jobs, workers=2)    # 3
        score(jobs, workers=2)    # 0

    Args:
        jobs: the wanted indicators, scores and masks.
        workers: Ray Train workers to share the work.
        gpus_per_worker: GPUs of each worker.
        scratch: place for Ray's own files meanwhile; None takes the jobs' storage.

    Returns:
        The number of computed parts; 0 where storage had all of them.
    """
    # Asked on the driver: a second search of the same checkpoint then starts no workers at all.
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
    """Number of modalities a job's model can mask; needed for the progress bar alone."""
    # Reading a workload's modalities builds its model; a job without a reactivation goes without.
    return len(job.workload.load().modalities) if job.settings else 0


def _score_all(jobs: Sequence[ScoringJob], reporter: Reporter | None = None) -> None:
    for job in jobs:
        # A diverging reactivation leaves no file, nor do masks out of reach. Its trials try again alone, and fail with
        # the reason.
        with contextlib.suppress(FloatingPointError, OutOfReach):
            score_missing(job, reporter)


def score_missing(job: ScoringJob, reporter: Reporter | None = None) -> None:
    """Compute the parts of a job which storage lacks; for a trial, as a rule, the masks for its own target.

    All workers call this function together.

    Raises:
        FloatingPointError: see :func:`score_worker`.
    """
    missing, (_, world) = [job.missing()], rank_and_world()
    if world > 1:
        # Another trial may write meanwhile, and workers with different views of storage would hang in a reduction:
        # rank 0's view holds for all.
        distributed.broadcast_object_list(missing)
    if len(missing[0]):
        score_worker(missing[0], reporter)
    if world > 1:
        distributed.barrier()  # all workers read the files next; rank 0 arrives here after its last write


def score_worker(job: ScoringJob, reporter: Reporter | None = None) -> None:
    """Compute this worker's share of a job; rank 0 writes the files.

    Raises:
        FloatingPointError: a reactivation diverged, with all workers at once; everything else is in storage.
    """
    # Each part is written as soon as known: a job which dies goes on from the last part.
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
    # One diverging learning rate must not cost the others their scores: its error waits until all is written.
    diverged: list[FloatingPointError] = []
    for settings in _by_learning_rate(job.settings):
        try:
            reri = worker.redundancy(settings)
        except FloatingPointError as error:
            diverged.append(error)
            continue
        # Settings of one learning rate share passes, and the clock knows only their sum: the sum is divided in
        # proportion to each setting's passes if computed alone.
        seconds = clock.lap() / sum(worker.passes(_alone(job, setting)) for setting in reri)
        for setting, tensors in reri.items():
            save(reri_file(setting), tensors, seconds * worker.passes(_alone(job, setting)))
    problem = worker.problem()
    for wanted in job.criteria:
        criterion = wanted.build()
        assert isinstance(criterion, ScoreCriterion)
        save(wanted.file, criterion.scores(problem), clock.lap())
    for request in job.masks:
        save(request.file, worker.masks(problem, request).to_tensors(), clock.lap())
    if diverged:
        raise diverged[0]


def _by_learning_rate(settings: Sequence[Reactivation]) -> list[list[Reactivation]]:
    """Groups of settings with one trajectory each: B steps are a beginning of more steps at the same rate."""
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
    """One worker's model, data and share of the passes.

    All workers make one, and call its methods in the same order::

        worker = ScoringWorker(job)
        deci = worker.contribution()
        reri = worker.redundancy(job.settings)
    """

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
        self._data_source = workload.source()
        rows = self._data_source.rows("train")
        steps = max((setting.steps for setting in job.settings), default=0)
        if job.masks or job.criteria:
            steps = max(steps, LEAST_TRAINING_BATCHES)
        # Two streams, so that neither D nor the reactivation batches depend on the number of the other's batches.
        data = _draw(len(rows), job, job.scoring_batches, stream=0)
        training = _draw(len(rows), job, steps, stream=1)
        # Both lists refer to micro-batches by number; one store decodes a micro-batch once for all passes.
        parts = [[rows[position] for position in part] for batch in (*data, *training) for part in batch]
        self._micro_batches = LazyBatches(RowLoader(self._data_source, rows), parts)
        numbers = iter(range(len(self._micro_batches)))
        self.data = [[next(numbers) for _ in batch] for batch in data]
        self.reactivation_data = [[next(numbers) for _ in batch] for batch in training]
        self.all_workers = Share(self._rank, self._world, None)
        self._share, self._passes = passes_of(self._rank, self._world, len(self.data[0]), self.modalities)

    def passes(self, job: ScoringJob) -> int:
        """Number of batches which pass forward and backward for a job on this worker's model."""
        return backward_passes(job, modalities=len(self.modalities))

    def problem(self) -> Problem:
        """The problem given to every criterion: the model, its groups and this worker's part of the data."""
        # Always the share among all workers: only ReRI knows passes which run side by side in two halves.
        share = self.all_workers
        return Problem(
            model=self.model,
            groups=self.groups,
            modalities=self.modalities,
            loss=self.loss,
            batches=share.of_batches(self.data),
            training_batches=[share.of_batch(batch) for batch in self.reactivation_data],
            flow=flow_of(self.model, self._micro_batches[0].to(self._device)),
            norms=self.job.norms,
            reduce=share.reduce,
            seed=self.job.seed,
        )

    def masks(self, problem: Problem, request: MaskRequest) -> Masks:
        """The masks of a criterion which prunes in rounds, the same on all workers.

        Raises:
            UserError: the criterion prunes units in part.
            OutOfReach: bounds of the units do not allow the sparsity.
        """
        units = bound_units(request.units, self.model, self._data_source)
        target = Target(groups=problem.groups, sparsity=request.sparsity, ratios=request.ratios)
        return units.checked(request.build().masks(replace(problem, granularity=units), target))

    def loss(self, share: Sequence[int], masked: frozenset[str]) -> Iterator[Tensor]:
        """The loss of micro-batches, one after another, as parts of their batch's mean."""
        # A generator: the backward pass of a micro-batch frees its activations before the next is computed.
        for number in share:
            batch = self._micro_batches[number].to(self._device)
            yield self._task.loss(self.model(batch, masked), batch)["total"].sum() / self.job.batch_size
            if self._reporter is not None:
                self._reporter.advance(len(batch) / self.job.batch_size)

    def check_masking(self) -> None:
        """Find out on one micro-batch whether the model masks its modalities, before hours of passes.

        Raises:
            UserError: the model ignores a mask; raised on all workers.
        """
        # The check's passes are no part of the bar's total, and must not move the bar.
        share, reporter, self._reporter = self.all_workers, self._reporter, None
        parts = [share.of_batches([[part]])[0] for batch in self.data for part in batch]
        check_masking(
            self.model, self.loss, self.groups, self.modalities, parts, reduce=share.reduce, norms=self.job.norms
        )
        self._reporter = reporter

    def scored(self, masked: str) -> list[str]:
        """The weights scored by the pass with a modality masked: all but the modality's own."""
        group_of = group_function(self.model)
        return [name for name in self.names if group_of(name) != masked]

    def contribution(self) -> Weights:
        """DeCI of every prunable weight, the same on all workers."""
        share = self.all_workers
        data = share.of_batches(self.data)
        return contribution(self.model, self.names, self.loss, data, reduce=share.reduce, norms=self.job.norms)

    def redundancy(self, settings: Sequence[Reactivation]) -> dict[Reactivation, dict[str, Tensor]]:
        """ReRI by setting, keyed ``<masked modality>/<weight>``; complete on rank 0.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; raised on all workers.
        """
        found: dict[Reactivation, dict[str, Tensor]] = {setting: {} for setting in settings}
        # A failure is kept as text until both halves have met: a half raising at once would leave the other waiting.
        failure: str | None = None
        try:
            for modality in self._passes:
                for setting, weights in self._redundancy(modality, settings).items():
                    found[setting].update({f"{modality}/{name}": tensor.cpu() for name, tensor in weights.items()})
        except FloatingPointError as error:
            failure = str(error)
        if len(self._passes) < len(self.modalities):
            failure = exchange(found, failure, self._rank, self._world)
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
            share.of_batches(self.data),
            [share.of_batch(batch) for batch in self.reactivation_data],
            list(settings),
            reduce=share.reduce,
            norms=self.job.norms,
        )


def _draw(samples: int, job: ScoringJob, batches: int, *, stream: int) -> list[list[list[int]]]:
    """Batches drawn by the seed, as positions of their micro-batches; fewer batches are a prefix of more.

    Args:
        samples: number of samples in the training split.
        job: gives the seed, the batch size and the size of a micro-batch.
        batches: number of batches to draw.
        stream: number of an independent sequence of draws.
    """
    # The stream sits above the 32 bits of usual seeds: seed 0 of stream 1 is no seed of stream 0.
    generator = torch.Generator().manual_seed(job.seed + (stream << 32))
    order: list[int] = []
    while len(order) < batches * job.batch_size:  # a small data set is read more than once, each time in a new order
        order += torch.randperm(samples, generator=generator).tolist()
    drawn = [order[start : start + job.batch_size] for start in range(0, batches * job.batch_size, job.batch_size)]
    size = job.micro_batch_size
    return [[batch[start : start + size] for start in range(0, job.batch_size, size)] for batch in drawn]
