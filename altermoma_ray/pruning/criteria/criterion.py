"""The interface of all criteria: from a problem and a target to masks."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from dataclasses import is_dataclass
from functools import lru_cache
from typing import ClassVar

from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target


class Criterion(ABC):
    """Decides which weights go. Implementations are frozen dataclasses of their parameters.

    All workers that share a problem call it together and get the same masks.

    Attributes:
        version: raise it to make stored scores be computed anew where the source cannot be read.
    """

    version: ClassVar[int] = 1

    def key(self) -> str:
        """Short hash of everything about the criterion that its scores depend on: class, parameters, version, source.

        The source is that of the modules of its class and of its bases.
        """
        bases = [base for base in type(self).__mro__ if base.__module__ not in ("builtins", "abc", "typing")]
        parameters = self if is_dataclass(self) else sorted(vars(self).items())
        parts = [f"{type(self).__qualname__} {parameters!r} {self.version}", *(_source(base) for base in bases)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

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


@lru_cache
def _source(kind: type) -> str:
    """The text of the module that defines a class; empty where there is none, as in a session."""
    module = inspect.getmodule(kind)
    try:
        return "" if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        return ""
