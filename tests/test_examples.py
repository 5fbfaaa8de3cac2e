"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import altermoma_ray

MODULES = [
    module.name
    for module in pkgutil.walk_packages(altermoma_ray.__path__, "altermoma_ray.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("room", sorted({name.split(".")[1] for name in MODULES}))
def test_examples_of(room):
    counts = {}
    for name in MODULES:
        if name.split(".")[1] == room:
            counts[name] = doctest.testmod(importlib.import_module(name))
    assert {name: count.failed for name, count in counts.items() if count.failed} == {}
