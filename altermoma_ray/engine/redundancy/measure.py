"""Measuring a redundancy report on Ray Train workers: score, prune and fine-tune, then look at every state.

All workers share evaluations and reactivation, with the same results for any number of workers. Rank 0 alone records
features, computes shares and removals, and writes the files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers, worker_device
from altermoma_ray.engine.redundancy.features import FeatureRecorder, rows_of
from altermoma_ray.engine.redundancy.job import FEATURE_SAMPLES, PrunedModel, RedundancyJob, evaluations
from altermoma_ray.engine.redundancy.removal import removals
from altermoma_ray.engine.redundancy.shares import group_figures, layer_figures
from altermoma_ray.engine.scoring.indicators import load_indicators
from altermoma_ray.engine.scoring.score import ScoringWorker, score
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.pruning import MaskHolder
from altermoma_ray.pruning.gradients import evaluation
from altermoma_ray.pruning.reactivation import reactivated
from altermoma_ray.pruning.targets import Target
from altermoma_ray.storage import Location
from altermoma_ray.tracking.redundancy.records import (
    BEFORE,
    FINE_TUNED,
    INTACT,
    MASKED,
    OCCUPIED,
    PRUNED,
    REACTIVATED,
    THIS_MODEL,
    UNPRUNED,
    RedundancyReport,
    SensorFigures,
)


def score_for_report(job: RedundancyJob, *, workers: int, gpus_per_worker: float) -> tuple[int, int]:
    """Put all indicators and scores of a report into storage.

    Args:
        job: the report's job.
        workers: Ray Train workers.
        gpus_per_worker: GPUs of each worker.

    Returns:
        The number of computed parts, and the number of all parts.
    """
    wanted = job.scoring_jobs
    computed = score(wanted, workers=workers, gpus_per_worker=gpus_per_worker)
    return computed, sum(len(scoring) for scoring in wanted)


def measure_report(job: RedundancyJob, *, workers: int, gpus_per_worker: float) -> None:
    """Measure every figure and write the report to storage; :meth:`RedundancyJob.read` reads the report.

    Args:
        job: the report's job; indicators, scores and the pruned model are in storage.
        workers: Ray Train workers.
        gpus_per_worker: GPUs of each worker.
    """
    workload = job.trial.workload.load()
    samples = len(workload.source().rows("validation", job.trial.validation_part))
    modalities = len(workload.modalities)
    # The bar counts two kinds of work by batches: those of evaluations, and the steps of one reactivation per modality.
    steps = job.reactivation.steps * modalities
    run_on_workers(
        measure_worker,
        job,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        storage=job.trial.workload.storage_location,
        describe="measuring",
        total=math.ceil(evaluations(modalities) * samples / workload.recipe.batch_size) + steps,
    )


def measure_worker(job: RedundancyJob, reporter: Reporter | None = None) -> None:
    """One worker's share of a report; rank 0 writes the report."""
    Measurement(job, reporter).run()


class Measurement:
    """One worker's model, data and findings.

    Every worker of a job makes one and runs it::

        Measurement(job, reporter).run()

    Args:
        job: the report's job.
        reporter: the worker's end of the progress bar; None without a bar.
    """

    def __init__(self, job: RedundancyJob, reporter: Reporter | None) -> None:
        self._job, self._reporter = job, reporter
        workload = job.trial.workload.load()
        self._data = workload.source()
        # The scoring worker's model, data and shares: a reactivation here is then ReRI's own, batch for batch.
        self._scorer = ScoringWorker(job.scoring, reporter)
        self._model = self._scorer.model
        self._modalities = tuple(reversed(self._scorer.modalities))
        self._task: Any = workload.task_for(self._model)
        self._columns = [metric for metric in self._task.metrics if metric.is_column]
        self._share = self._scorer.all_workers
        rows = self._data.rows("validation", job.trial.validation_part)
        self._evaluator = Evaluator.of(self._data, rows, workload.recipe)
        # Rank 0 alone records features: so few samples are not worth sharing, as their whole maps would be gathered.
        self._is_first = rank_and_world()[0] == 0
        self._features, self._sample, self._occupied = self._recorder()
        self._sensors: list[SensorFigures] = []
        self._seconds: dict[str, float] = {}

    def run(self) -> None:
        """Look at every state of the model, then write the report."""
        # One model passes through all states. The order matters: reactivation and the mask holder start from θ_init,
        # which the fine-tuned weights, loaded last, replace for good.
        pruned = PrunedModel(self._job.pruned_folder, self._job.trial.workload)
        with self._clock("unpruned"):
            self._evaluate(UNPRUNED, INTACT, *self._modalities)
            self._record(BEFORE)
        with self._clock("reactivated"):
            for sensor in self._modalities:
                self._record(MASKED, masked=sensor)
                with self._reactivated(sensor):
                    self._evaluate(REACTIVATED, sensor)
                    self._record(REACTIVATED, masked=sensor)
        with self._clock("pruned"):
            # μ ⊙ θ_init. The pruned weights stay at zero after the block; the fine-tuned state replaces them all.
            with MaskHolder(self._model, pruned.masks):
                self._evaluate(PRUNED, INTACT, *self._modalities)
                self._record(PRUNED)
            fine_tuned, trial = pruned.load()
            self._model.load_state_dict(fine_tuned.state_dict())
            self._evaluate(FINE_TUNED, INTACT, *self._modalities)
            self._record(FINE_TUNED)
        if self._is_first:
            self._write(pruned, trial)

    @contextmanager
    def _reactivated(self, masked: str) -> Iterator[None]:
        # All workers together, with the batches of the stored ReRI: θ_B is the same model on any number of workers.
        batches = [self._share.of_batch(batch) for batch in self._scorer.reactivation_data]
        setting, reduce = self._job.reactivation, self._share.reduce
        with reactivated(self._model, self._scorer.loss, masked, batches, setting, reduce=reduce):
            yield

    def _evaluate(self, state: str, *lost: str) -> None:
        for sensor in lost:
            masked = frozenset() if sensor == INTACT else frozenset({sensor})
            metrics = self._evaluator(self._model, self._task, masked=masked, on_batch=self._advance)
            figures = {metric.name: metrics[metric.name] for metric in self._columns}
            self._sensors.append(SensorFigures(state=state, lost=sensor, figures=figures))

    def _advance(self) -> None:
        # Each worker reports its own batches. Its last batch may be smaller, so the sum may pass the total a little.
        if self._reporter is not None:
            self._reporter.advance()

    def _record(self, state: str, *, masked: str | None = None) -> None:
        if self._features is not None:
            self._features.record(self._model, state, masked=masked)

    def _recorder(self) -> tuple[FeatureRecorder | None, str, torch.Tensor]:
        """Rank 0's recorder of feature maps, and the sample in the pictures: its name and its occupied cells.

        The recorded samples are spread over the validation scenes; the one with the most occupied cells is pictured.
        """
        if not self._is_first:
            return None, "", torch.zeros(0)
        # Batches of one sample: with all of them in one, feature maps of a large model may fill a GPU.
        rows = self._data.rows("validation", self._job.trial.validation_part, FEATURE_SAMPLES)
        dataset = self._data.dataset(rows, augment=False, seed=0)
        samples = [self._data.collate([dataset[position]]) for position in range(len(dataset))]
        batches = [sample.to(worker_device()) for sample in samples]
        occupied = torch.cat([self._task.occupied(batch) for batch in batches])
        fullest = int(occupied.flatten(1).sum(dim=1).argmax())
        # Only the task knows a sample's name, the key of a decoded prediction.
        with evaluation(self._model), torch.inference_mode():
            (name,) = self._task.decode(self._model(batches[fullest]), batches[fullest])
        recorder = FeatureRecorder(batches, rows_of(self._scorer.modalities), occupied, pictured=fullest)
        return recorder, name, occupied[fullest]

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - start

    def _write(self, pruned: PrunedModel, trial: dict[str, object]) -> None:
        job, sparsity = self._job, self._job.task.setting.sparsity
        assert self._features is not None
        groups = self._scorer.groups
        indicators = load_indicators(job.scoring, job.reactivation)
        with self._clock("indicators"):
            layers = layer_figures(indicators, groups)
            group_entries = group_figures(indicators, groups, layers, sparsity)
        with self._clock("criteria"):
            target = Target(groups=groups, sparsity=sparsity)
            masks = {name: target.masks(scores) for name, scores in job.scores(indicators, groups).items()}
            # A given model's criterion is not known for sure, and a criterion of rounds has no scores here. In all
            # other cases this model's masks are one of the rows already.
            if job.pruned is not None or job.task.setting.criterion not in masks:
                masks[THIS_MODEL] = pruned.masks
            removed = removals(masks, groups)
        workload = job.trial.workload
        storage, part = workload.storage_location, job.trial.validation_part
        report = RedundancyReport(
            dataset=job.dataset,
            model=job.model,
            checkpoint=job.trial.scoring.checkpoint_hash,
            dataroot=_kept(workload.asked().get("dataroot"), storage),
            criterion=job.task.setting.criterion if job.pruned is None else job.pruned_folder.kept_in(storage),
            sparsity=sparsity,
            seed=job.trial.seed,
            reactivation_steps=job.reactivation.steps,
            reactivation_learning_rate=job.reactivation.learning_rate,
            scoring_batches=job.scoring.scoring_batches,
            fine_tune_steps=trial.get("fine_tune_steps"),
            validation_samples=len(self._data.rows("validation", part)),
            feature_samples=len(self._data.rows("validation", part, FEATURE_SAMPLES)),
            sample=self._sample,
            titles={metric.name: metric.title for metric in self._columns},
            sign=self._columns[0].sign,
            groups=group_entries,
            layers=layers,
            removals=removed,
            sensors=self._sensors,
            features=self._features.figures,
            seconds=self._seconds,
        )
        tensors = {**self._features.pictures, OCCUPIED: self._occupied.cpu().contiguous()}
        # The report last: a page is drawn once it exists, and needs the pictures.
        job.folder.join("features.safetensors").write_bytes(save_tensors(tensors))
        job.folder.join("report.json").write_text(report.model_dump_json(indent=2))


def _kept(dataroot: str | None, storage: Location) -> str:
    """A data set's address in stored form, relative inside the storage; empty for a workload without an address."""
    return "" if dataroot is None else Location.parse(dataroot).kept_in(storage)
