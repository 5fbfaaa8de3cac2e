"""Pruning criteria behind one interface; a new one is a file here and a line in :data:`CRITERIA`.

A search asks the criterion itself which files to store, which reactivation to run, and how indicators become scores:
see :class:`Criterion`.
"""

from altermoma_ray.pruning.criteria.altermoma import AlterMOMA
from altermoma_ray.pruning.criteria.criterion import Criterion, IndicatorCriterion, Needs, ScoreCriterion
from altermoma_ray.pruning.criteria.imp import IMP
from altermoma_ray.pruning.criteria.magnitude import Magnitude
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.criteria.prospr import ProsPr
from altermoma_ray.pruning.criteria.random import Random
from altermoma_ray.pruning.criteria.residual import ResidualAlterMOMA
from altermoma_ray.pruning.criteria.snip import Snip
from altermoma_ray.pruning.criteria.synflow import SynFlow
from altermoma_ray.pruning.criteria.taylor import Taylor

CRITERIA: dict[str, Criterion] = {
    "altermoma": AlterMOMA(),
    "altermoma-residual": ResidualAlterMOMA(),
    "deci": AlterMOMA(beta=0.0),
    "reri": AlterMOMA(alpha=0.0),
    "magnitude": Magnitude(),
    "imp": IMP(),
    "snip": Snip(),
    "taylor": Taylor(),
    "synflow": SynFlow(),
    "prospr": ProsPr(),
    "random": Random(),
}
"""Every criterion by its name, with its default parameters."""

__all__ = [
    "CRITERIA",
    "IMP",
    "AlterMOMA",
    "Criterion",
    "IndicatorCriterion",
    "Magnitude",
    "Needs",
    "Problem",
    "ProsPr",
    "Random",
    "ResidualAlterMOMA",
    "ScoreCriterion",
    "Snip",
    "SynFlow",
    "Taylor",
]
