"""A run of a model in segments: from the beginning of one layer to the beginning of the next.

Segments leave no time out: normalisation, activation, resampling and decoding belong to the layer before them. The sum
of all segments is the time of the whole run. A layer here is a module that owns weights of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

BEFORE = ""
"""The segment before the first layer."""
Progress = Callable[[], None]
"""Called after every run."""


@torch.no_grad()
def time_segments(
    models: Mapping[str, nn.Module],
    layers: Collection[str],
    run: Callable[[nn.Module], Any],
    *,
    rounds: int,
    warm_up: int = 1,
    progress: Progress = lambda: None,
) -> dict[str, dict[str, float]]:
    """The least seconds of each segment, of models that take turns.

    The least time of a segment is the time on an undisturbed machine: other work only adds time. Segments last
    milliseconds, so a few rounds find a quiet moment for each of them even on a busy machine.

    Args:
        models: by name, in evaluation mode on one device, all with the same layers.
        layers: names of the modules with which segments begin.
        run: runs a model on a sample, up to decoded outputs.
        rounds: counted runs of each model.
        warm_up: runs of each model before, which are not counted: kernels are chosen and memory is taken then.
        progress: called after every run.

    Returns:
        By model and layer, seconds; a layer that was not run is missing.
    """
    least: dict[str, dict[str, float]] = {name: {} for name in models}
    for turn in range(-warm_up, rounds):
        # Every other round goes backwards: no model is always the one after a rest.
        for name in list(models) if turn % 2 else reversed(list(models)):
            with _Marks(models[name], layers) as marks:
                run(models[name])
            if turn >= 0:
                for layer, seconds in marks.seconds().items():
                    least[name][layer] = min(seconds, least[name].get(layer, seconds))
            progress()
    return least


class _Marks:
    """The beginnings of a run's segments, in their order::

    with _Marks(model, ["first"]) as marks:
        model(batch)
    marks.seconds()
    """

    def __init__(self, model: nn.Module, layers: Collection[str]) -> None:
        self._handles = contextlib.ExitStack()
        # On a GPU, events: waiting for the GPU at every layer would add the launch of each kernel to its time.
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        # One thread never waits for another one: its CPU time is the time of an undisturbed machine.
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self._mark: Callable[[], Any] = _event if on_gpu else clock
        self._marks: list[tuple[str, Any]] = []
        for name, module in model.named_modules():
            if name in layers:
                handle = module.register_forward_pre_hook(self._note(name))
                self._handles.callback(handle.remove)

    def _note(self, layer: str) -> Callable[..., None]:
        return lambda *_: self._marks.append((layer, self._mark()))

    def __enter__(self) -> _Marks:
        self._marks.append((BEFORE, self._mark()))
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()
        self._end = self._mark()

    def seconds(self) -> dict[str, float]:
        """Seconds by layer; a layer that ran several times has the sum."""
        found: dict[str, float] = {}
        for (layer, begin), end in self._pairs():
            found[layer] = found.get(layer, 0.0) + _between(begin, end)
        return found

    def _pairs(self) -> Iterator[tuple[tuple[str, Any], Any]]:
        ends = [*(mark for _, mark in self._marks[1:]), self._end]
        if isinstance(self._end, torch.cuda.Event):
            self._end.synchronize()
        return zip(self._marks, ends, strict=True)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    return begin.elapsed_time(end) / 1000 if isinstance(begin, torch.cuda.Event) else end - begin
