"""One scoring worker's passes, its data decoded beforehand: by the product, and bare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from altermoma_ray.engine.scoring.indicators import ScoringJob
from altermoma_ray.engine.scoring.score import ScoringWorker


class Passes:
    """What ``score_worker`` computes, and the same passes without it.

    Args:
        job: with one reactivation setting.
    """

    def __init__(self, job: ScoringJob) -> None:
        assert len(job.settings) == 1
        self._worker = ScoringWorker(job)
        self.count = self._worker.passes(job)
        """Batches that pass forward and backward."""

    def score(self) -> None:
        """DeCI, and ReRI under both masks."""
        self._worker.contribution()
        self._worker.redundancy(self._worker.job.settings)

    def bare(self) -> None:
        """The forward-backward passes behind :meth:`score`, gradients of the same parameters, and nothing else."""
        worker = self._worker
        worker.model.eval()
        everything = [name for name, _ in worker.model.named_parameters()]
        self._backward(worker.names, frozenset(), worker.data)
        for modality in worker.modalities:
            masked, scored = frozenset({modality}), worker.scored(modality)
            self._backward(scored, masked, worker.data)
            self._backward(everything, masked, worker.reactivation_data)
            self._backward(scored, masked, worker.data)
        worker.model.requires_grad_(True)

    def _backward(self, names: Iterable[str], masked: frozenset[str], batches: Sequence[Sequence[int]]) -> None:
        wanted = set(names)
        for name, parameter in self._worker.model.named_parameters():
            parameter.requires_grad_(name in wanted)
            parameter.grad = None
        for batch in batches:
            for loss in self._worker.loss(batch, masked):
                loss.backward()
