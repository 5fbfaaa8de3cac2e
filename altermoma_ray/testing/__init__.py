"""Contract suites: what every criterion, granularity, model, task and data source must do, as tests to inherit.

A class of your own passes its contract when the tests of a subclass pass in your test suite; nothing else is needed:

>>> from altermoma_ray.pruning.criteria import Snip
>>> from altermoma_ray.testing import CriterionContract
>>> class TestMyCriterion(CriterionContract):
...     criterion = Snip()

The suites need pytest, and no fixtures.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("criterion", "granularity", "model", "task", "data_source", "values"))
)  # before they are imported, so that their failed assertions show values

from altermoma_ray.testing.criterion import CriterionContract
from altermoma_ray.testing.data_source import DataSourceContract
from altermoma_ray.testing.granularity import GranularityContract
from altermoma_ray.testing.model import ModelContract
from altermoma_ray.testing.task import TaskContract

__all__ = ["CriterionContract", "DataSourceContract", "GranularityContract", "ModelContract", "TaskContract"]
