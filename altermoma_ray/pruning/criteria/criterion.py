"""The interface of all criteria: from a problem and a target to masks."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.gradients import Weights
from altermoma_ray.pruning.indicators import Indicators, Reactivation
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target

Needs = Literal["indicators", "scores", "masks"]
"""The files of a criterion in a search's storage.

- ``indicators``: DeCI and ReRI, which :meth:`IndicatorCriterion.combine` makes into scores, for any parameters;
- ``scores``: its scores, which hold for any target;
- ``masks``: its masks for one target, because the criterion prunes in rounds of its own.
"""


class Criterion(ABC):
    """Decides which weights go. Implementations are frozen dataclasses of their parameters.

    All workers of a problem call :meth:`masks` together and get the same result.

    A new criterion is a class in a file of its own and a line in :data:`altermoma_ray.pruning.criteria.CRITERIA`. Its
    base class decides which files a search keeps: :class:`Criterion` (masks), :class:`ScoreCriterion` (scores) or
    :class:`IndicatorCriterion` (indicators).

    >>> from altermoma_ray.pruning.criteria import CRITERIA
    >>> {name: CRITERIA[name].needs for name in ("altermoma", "snip", "synflow")}
    {'altermoma': 'indicators', 'snip': 'scores', 'synflow': 'masks'}

    Attributes:
        needs: the files kept of the criterion; see :data:`Needs`.
        version: a higher one has stored scores computed anew; needed where the source cannot be read.
    """

    needs: ClassVar[Needs] = "masks"
    version: ClassVar[int] = 1

    def key(self) -> str:
        """Short hash of everything in the criterion with an effect on its scores: class, parameters, version, source.

        The source is the text of the modules of its class and of its bases.
        """
        # The bases too: a change in a parent's formula must not find the child's old scores.
        bases = [base for base in type(self).__mro__ if base.__module__ not in ("builtins", "abc", "typing")]
        parameters = self if is_dataclass(self) else sorted(vars(self).items())
        parts = [f"{type(self).__qualname__} {parameters!r} {self.version}", *(_source(base) for base in bases)]
        # Joined by a zero byte, which no source holds: parts cannot run into one another.
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    @abstractmethod
    def masks(self, problem: Problem, target: Target) -> Masks:
        """The masks for the target, chosen by the problem's granularity."""

    needs_flow: ClassVar[bool] = False
    """Whether the criterion reads the problem's ``flow``, which not every model offers."""

    def passes(self, batches: int) -> int:
        """Batches that pass forward and backward when D has ``batches``; only progress bars ask."""
        return 0

    @property
    def reads(self) -> Reactivation | None:
        """The reactivation whose ReRI is read; None where no ReRI is read."""
        return None

    def own(self) -> dict[str, Any]:
        """The parameters with values other than their class's defaults.

        A search leaves them unchanged: ranges shared by all criteria of a kind, for example of β, do not apply to
        a criterion with parameters of its own.

        >>> from altermoma_ray.pruning.criteria import AlterMOMA
        >>> AlterMOMA().own(), AlterMOMA(beta=0.0).own()
        ({}, {'beta': 0.0})
        """
        if not is_dataclass(self):
            return dict(vars(self))
        values = {field.name: (getattr(self, field.name), _default(field)) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


class ScoreCriterion(Criterion):
    """A criterion with one look: its scores do not depend on the target, and masks of higher sparsities are nested.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Squares(ScoreCriterion):
    ...     def scores(self, problem: Problem) -> Weights:
    ...         return {name: problem.model.get_parameter(name).detach().square() for name in problem.names}
    >>> Squares().needs, Squares().passes(batches=8)
    ('scores', 0)
    """

    needs: ClassVar[Needs] = "scores"

    @abstractmethod
    def scores(self, problem: Problem) -> Weights:
        """Finite scores of all prunable weights, in their shapes; the lowest are pruned first."""

    def masks(self, problem: Problem, target: Target) -> Masks:
        """The masks for the target."""
        return problem.granularity.select(self.scores(problem), target)


class IndicatorCriterion(ScoreCriterion):
    """A criterion whose scores are made of DeCI and ReRI: these are stored once, for all of its parameters.

    The criterion reads the ReRI of one reactivation (:attr:`reads`), or DeCI alone.

    >>> from altermoma_ray.pruning.criteria import CRITERIA
    >>> [name for name, criterion in CRITERIA.items() if isinstance(criterion, IndicatorCriterion)]
    ['altermoma', 'altermoma-residual', 'deci', 'reri']
    """

    needs: ClassVar[Needs] = "indicators"

    @abstractmethod
    def combine(self, indicators: Indicators, groups: Mapping[str, Sequence[str]]) -> Weights:
        """Scores of known indicators.

        Args:
            indicators: DeCI, and the ReRI of :attr:`reads`.
            groups: weight names by parameter group.
        """


def _default(field: Field[Any]) -> Any:
    """A parameter's default; MISSING, which equals no value, where there is none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


@lru_cache
def _source(kind: type) -> str:
    """The text of a class's module; empty where there is none, as in an interactive session."""
    # The whole module, not the class alone: helper functions beside the class decide scores too.
    module = inspect.getmodule(kind)
    try:
        return "" if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        return ""
