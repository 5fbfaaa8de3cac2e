"""Contract suites: the duties of every criterion, granularity, model, task and data source, as tests to inherit.

A class of your own passes its contract when the tests of a subclass pass in your test suite; nothing else is needed:

>>> from altermoma_ray.pruning.criteria import Snip
>>> from altermoma_ray.testing import CriterionContract
>>> class TestMyCriterion(CriterionContract):
...     criterion = Snip()

The suites of criteria and granularities need pytest; none needs a fixture. ``python -m altermoma_ray.check`` runs the
suites of a workload's parts without pytest.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from altermoma_ray.testing.criterion import CriterionContract
    from altermoma_ray.testing.data_source import DataSourceContract
    from altermoma_ray.testing.granularity import GranularityContract
    from altermoma_ray.testing.model import ModelContract
    from altermoma_ray.testing.task import TaskContract
    from altermoma_ray.testing.workload import WorkloadContract

_ROOMS = {
    "CriterionContract": "criterion",
    "DataSourceContract": "data_source",
    "GranularityContract": "granularity",
    "ModelContract": "model",
    "TaskContract": "task",
    "WorkloadContract": "workload",
}

# Pytest rewrites a module's assertions only at its import. The suites are therefore registered before their first
# import; otherwise a failed assertion would not show its values.
if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite(*(f"{__name__}.{name}" for name in (*_ROOMS.values(), "values")))


def __getattr__(name: str) -> Any:
    """Import a suite at its first use: a machine which only runs searches has no pytest."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


__all__ = [
    "CriterionContract",
    "DataSourceContract",
    "GranularityContract",
    "ModelContract",
    "TaskContract",
    "WorkloadContract",
]
