"""One scoring worker's passes, its data decoded beforehand: by the product, and bare."""

from __future__ import annotations

import torch
from torch import Tensor

from altermoma_ray.data.batch import Batch
from altermoma_ray.data.nuscenes import NuScenesDataset
from altermoma_ray.engine.loading import LazyBatches
from altermoma_ray.engine.scoring import MODALITIES, ScoringJob, Share
from altermoma_ray.engine.workers import rank_and_world
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.fusion import FusionModel
from altermoma_ray.pruning import contribution, prunable_weights, redundancy
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection import DetectionTask


class Passes:
    """What ``score_worker`` computes for one reactivation setting, and the same passes without it.

    Args:
        job: with one setting.
    """

    def __init__(self, job: ScoringJob) -> None:
        (self._setting,) = job.settings
        rank, world = rank_and_world()
        self._model, _ = load_checkpoint(Location.parse(job.checkpoint))
        self._task = DetectionTask(self._model.config.head)
        self._names = list(prunable_weights(self._model))
        self._size = job.batch_size
        self._share = Share(rank, world, None)
        source = job.source
        dataset = NuScenesDataset(
            source.index(), source.training_rows(), self._model.config.inputs, augment=False, seed=job.seed
        )
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(job.seed)).tolist()
        count = job.scoring_batches + self._setting.steps
        draw = [[order[(n * self._size + i) % len(order)] for i in range(self._size)] for n in range(count)]
        scoring, reactivation = draw[: job.scoring_batches], draw[job.scoring_batches :]
        self._scoring = list(LazyBatches(dataset, self._share.of_sum(scoring)))
        self._reactivation = list(LazyBatches(dataset, [self._share.of_batch(batch) for batch in reactivation]))

    def score(self) -> None:
        """DeCI, and ReRI under both masks."""
        model, loss, reduce = self._model, self._loss, self._share.reduce
        contribution(model, self._names, loss, self._scoring, reduce=reduce)
        for masked in MODALITIES:
            scored, settings = self._scored(masked), [self._setting]
            redundancy(model, scored, loss, masked, self._scoring, self._reactivation, settings, reduce=reduce)

    def bare(self) -> None:
        """The forward-backward passes behind :meth:`score`, gradients of the same parameters, and nothing else."""
        self._model.eval()
        everything = [name for name, _ in self._model.named_parameters()]
        self._backward(self._names, frozenset(), self._scoring)
        for modality in MODALITIES:
            masked, scored = frozenset({modality}), self._scored(modality)
            self._backward(scored, masked, self._scoring)
            self._backward(everything, masked, self._reactivation)
            self._backward(scored, masked, self._scoring)
        self._model.requires_grad_(True)

    def _backward(self, names: list[str], masked: frozenset[str], batches: list[Batch | None]) -> None:
        wanted = set(names)
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in wanted)
            parameter.grad = None
        for batch in batches:
            loss = self._loss(batch, masked)
            if loss is not None:
                loss.backward()

    def _scored(self, masked: str) -> list[str]:
        return [name for name in self._names if FusionModel.group_of(name) != masked]

    def _loss(self, batch: Batch | None, masked: frozenset[str]) -> Tensor | None:
        if batch is None:
            return None
        return self._task.loss(self._model(batch, masked), batch)["total"].sum() / self._size
