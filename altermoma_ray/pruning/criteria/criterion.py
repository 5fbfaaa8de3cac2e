"""The interface of all criteria: from a problem and a target to masks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target


class Criterion(ABC):
    """Decides which weights go. Implementations are frozen dataclasses of their parameters.

    All workers that share a problem call it together and get the same masks.
    """

    @abstractmethod
    def masks(self, problem: Problem, target: Target) -> Masks:
        """The masks that meet the target."""

    def passes(self, batches: int) -> int:
        """Batches that pass forward and backward when D has ``batches``; only progress bars ask."""
        return 0


class ScoreCriterion(Criterion):
    """A criterion that looks once: its scores do not depend on the target, so that masks of a higher one are nested."""

    @abstractmethod
    def scores(self, problem: Problem) -> Weights:
        """Finite scores of all prunable weights, in their shapes; the lowest are pruned first."""

    def masks(self, problem: Problem, target: Target) -> Masks:
        """The masks that meet the target."""
        return target.masks(self.scores(problem))
