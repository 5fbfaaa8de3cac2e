"""The contract suite of a whole workload: the suites of its data source, model and task, on its own samples."""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable
from functools import cached_property
from typing import cast
from unittest import SkipTest

from altermoma_ray.errors import UserError
from altermoma_ray.testing.data_source import DataSourceContract
from altermoma_ray.testing.model import ModelContract, module
from altermoma_ray.testing.task import SAMPLES, TaskContract
from altermoma_ray.workloads.protocols import Batch, DataSource, FusionModel, Task
from altermoma_ray.workloads.workload import Workload

PARTS = {"data source": DataSourceContract, "model": ModelContract, "task": TaskContract}
"""The suites of a workload's parts, in their order of running: a model needs data, a task needs both."""
_OTHERS = re.compile(r"site-packages|altermoma_ray/(testing|workloads)/|<frozen")
"""A pattern for the names of files outside the user's code."""


class WorkloadContract(DataSourceContract, ModelContract, TaskContract):
    """Tests of a :class:`altermoma_ray.workloads.Workload`: the tests of its three parts.

    Subclass it in a test module and name the workload::

        class TestMyWorkload(WorkloadContract):
            workload = WORKLOAD

    >>> WorkloadContract.workload is None
    True

    Attributes:
        workload: the tested workload.
        checkpoint: path or URI of the unpruned weights; None takes the workload's own.
    """

    workload: Workload | None = None
    checkpoint: str | None = None

    def make_data(self) -> DataSource:
        """The workload's data source, which is prepared once."""
        return self._prepared

    def make_model(self) -> FusionModel:
        """A copy of the unpruned model."""
        return copy.deepcopy(self._unpruned)

    def make_batch(self) -> Batch:
        """The first samples to learn from."""
        data = self._prepared
        dataset = data.dataset(data.rows("train", limit=SAMPLES), augment=False, seed=0)
        return cast(Batch, data.collate([dataset[position] for position in range(len(dataset))]))

    def make_task(self) -> Task:
        """The task of the unpruned model."""
        return self._named.task_for(module(self._unpruned))

    @property
    def _named(self) -> Workload:
        assert self.workload is not None, "name the workload: workload = WORKLOAD"
        return self.workload

    # Real data sets and models can take minutes to load: unlike the suites of the parts, this one loads them once.
    @cached_property
    def _prepared(self) -> DataSource:
        data = self._named.source()
        data.prepare()
        return data

    @cached_property
    def _unpruned(self) -> FusionModel:
        return cast(FusionModel, self._named.unpruned(self.checkpoint))

    def _data(self) -> DataSource:
        return self._prepared


def check_workload(workload: Workload, told: Callable[[str], None], checkpoint: str | None = None) -> None:
    """Run the suites of a workload's parts, without pytest, up to the first failing test.

    Example::

        check_workload(WORKLOAD, print)

    Args:
        workload: the workload to check.
        told: called with a line for each part, and with a line for each requirement met by the part.
        checkpoint: path or URI of the unpruned weights; None takes the workload's own.

    Raises:
        UserError: a part does not meet a requirement.
    """
    suite = WorkloadContract()
    suite.workload, suite.checkpoint = workload, checkpoint
    for part, contract in PARTS.items():
        told(part)
        # ``vars`` keeps the order of the source, in which simple requirements come first; ``dir`` would sort by name.
        for name in vars(contract):
            if not name.startswith("test_"):
                continue
            requirement = name.removeprefix("test_").replace("_", " ")
            # ``SkipTest`` is the only way to skip which both pytest and the standard library know.
            try:
                getattr(suite, name)()
            except SkipTest as reason:
                told(f"  – {requirement}: {reason}")
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"{workload.name}: {_reason(error, requirement)}; mend its {part}") from error
            else:
                told(f"  ✓ {requirement}")


def _reason(error: Exception, requirement: str) -> str:
    """A failure in words: the message of the suite, or the error of the user's code with its file and line."""
    said = (str(error).splitlines() or [""])[0]
    if isinstance(error, AssertionError):
        return said or f"it does not hold that {requirement}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _OTHERS.search(frame.filename)]
    # The last frame of the user's own code: the innermost frame is usually deep inside a library.
    place = (own or frames)[-1]
    return f"{type(error).__name__}: {said} ({place.filename}, line {place.lineno}) where {requirement}"
