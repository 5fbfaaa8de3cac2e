"""The small problem that criteria solve, for their own tests too."""

from __future__ import annotations

import pytest

from altermoma_ray.testing.problem import small_problem


@pytest.fixture
def make_problem():
    """A function that makes the problem anew; see :func:`altermoma_ray.testing.problem.small_problem`."""
    return small_problem
