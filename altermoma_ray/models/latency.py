"""How long models take from a batch to decoded outputs, stage by stage, measured side by side.

Models take turns: a slow second of the machine then falls on all alike, and the ratio of two medians stays fair.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Latency:
    """Durations of one model.

    >>> Latency([0.5, 0.2, 0.3], {}).median_ms
    300.0

    Attributes:
        seconds: of every run, from the batch to decoded outputs.
        by_stage: seconds of every run in each child module of the model, by its name.
    """

    seconds: Sequence[float]
    by_stage: Mapping[str, Sequence[float]]

    @property
    def median_ms(self) -> float:
        """Median in milliseconds."""
        return 1000 * median(self.seconds)

    @property
    def p95_ms(self) -> float:
        """95th percentile in milliseconds: the least duration that at most 5 % of the runs exceed."""
        return 1000 * sorted(self.seconds)[min(len(self.seconds) - 1, int(0.95 * len(self.seconds)))]

    def stages_ms(self) -> dict[str, float]:
        """Median milliseconds of each stage."""
        return {name: 1000 * median(seconds) for name, seconds in self.by_stage.items() if seconds}


@torch.no_grad()
def measure(
    models: Mapping[str, nn.Module],
    batches: Sequence[Any],
    run: Callable[[nn.Module, Any], Any],
    *,
    repeats: int,
    warm_up: int = 2,
) -> dict[str, Latency]:
    """Time models that take turns on the same batches.

    Args:
        models: by name, in evaluation mode, all on one device.
        batches: on that device; every repeat takes the next one.
        run: from a model and a batch to decoded outputs.
        repeats: timed runs of each model.
        warm_up: runs of each model before, which are not counted: kernels are chosen and memory is taken then.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    stages: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for repeat in range(-warm_up, repeats):
        batch = batches[repeat % len(batches)]
        # Every other round goes backwards: none is always the one after a rest.
        for name in list(models) if repeat % 2 else reversed(list(models)):
            with _stages(models[name]) as found:
                begin = _now()
                run(models[name], batch)
                duration = _now() - begin
            if repeat >= 0:
                seconds[name].append(duration)
                for stage, spent in found.items():
                    stages[name].setdefault(stage, []).append(spent)
    return {name: Latency(seconds[name], stages[name]) for name in models}


@contextlib.contextmanager
def _stages(model: nn.Module) -> Iterator[dict[str, float]]:
    """While the context is open, the seconds spent in each stage of a model: its children, and those of ModuleDicts."""
    found: dict[str, float] = {}
    begun: dict[str, float] = {}

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: begun.__setitem__(name, _now())

    def leave(name: str) -> Callable[..., None]:
        return lambda *_: found.__setitem__(name, found.get(name, 0.0) + _now() - begun[name])

    handles = []
    for name, child in _children(model):
        handles += [child.register_forward_pre_hook(enter(name)), child.register_forward_hook(leave(name))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _children(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict | nn.ModuleList):
            yield from _children(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _now() -> float:
    """The time, once the GPU has done all that it was given."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
