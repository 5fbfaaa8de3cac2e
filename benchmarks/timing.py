"""Times on a CPU or a GPU: warmed up, synchronised, with the memory that they needed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

WARM_UPS = 3
"""Calls before the first that counts: kernels are chosen and memory is taken in them."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One piece of work, done several times."""

    milliseconds: list[float]
    memory_gib: float | None
    """Greatest memory of the GPU during the last call; None on a CPU."""

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    def figures(self) -> dict[str, Any]:
        """Median and 95th percentile in milliseconds, and memory: one row of a table."""
        ordered = sorted(self.milliseconds)
        return {
            "ms (median)": self.median,
            "ms (95th percentile)": ordered[max(0, -(-95 * len(ordered) // 100) - 1)],
            "GPU memory (GiB)": "" if self.memory_gib is None else round(self.memory_gib, 2),
        }


def alternately(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timed]:
    """Call several pieces of work in turn, again and again, so that a drift of the machine's speed meets all of them.

    Each call is waited for, and the first calls of each do not count.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, float | None] = dict.fromkeys(sides)
    for number in range(WARM_UPS + repeats):
        for name, work in sides.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            work()
            _finish()
            if number >= WARM_UPS:
                milliseconds[name].append((time.perf_counter() - began) * 1e3)
            if torch.cuda.is_available():
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
    return {name: Timed(milliseconds=milliseconds[name], memory_gib=memory[name]) for name in sides}


@dataclass
class Stages:
    """Milliseconds of named parts of a larger work, call by call."""

    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the body takes."""
        _finish()
        began = time.perf_counter()
        yield
        _finish()
        self.milliseconds.setdefault(name, []).append((time.perf_counter() - began) * 1e3)

    @contextmanager
    def watching(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Add the time of each call of these modules while the context lasts; they must not lie in one another."""
        began: dict[str, float] = {}

        def before(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                _finish()
                began[name] = time.perf_counter()

            return hook

        def after(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                _finish()
                self.milliseconds.setdefault(name, []).append((time.perf_counter() - began[name]) * 1e3)

            return hook

        hooks = []
        for name, module in modules.items():
            hooks += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def timed(self) -> dict[str, Timed]:
        """The stages in the order in which they first ended."""
        return {name: Timed(milliseconds=values, memory_gib=None) for name, values in self.milliseconds.items()}


def _finish() -> None:
    """Wait until the GPU, if there is one, has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
