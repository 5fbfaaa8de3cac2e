"""Measuring a cost table: one model, cut to several widths, each run a few times."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from altermoma_ray.models.costs.segments import BEFORE, Progress, time_segments
from altermoma_ray.models.costs.table import CostTable, LayerCost, features
from altermoma_ray.models.counting import count
from altermoma_ray.pruning.channels import Coupling, cut, kept_entries, kept_shapes, kept_shares

ROUNDS = 5
"""Counted runs at every widths."""
UNIFORM = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)
"""Shares of channels kept in every layer alike."""
MIXED = 9
"""Number of cuts whose shares are drawn for every layer by itself: input and output widths then differ."""


def measure_costs(
    model: nn.Module,
    couplings: Sequence[Coupling],
    run: Callable[[nn.Module], Any],
    *,
    rounds: int = ROUNDS,
    progress: Progress = lambda: None,
) -> CostTable:
    """Time a model at several widths, and fit the time of each layer to its widths; count its MACs.

    >>> from altermoma_ray.pruning.channels import trace
    >>> layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    >>> forward = lambda model: model(torch.zeros(1, 4))
    >>> table = measure_costs(layers, trace(layers, forward), forward, rounds=1)
    >>> table.macs({"0.weight": (4, 4), "2.weight": (2, 4)})
    24

    Args:
        model: unpruned, in evaluation mode, on the device; stays unchanged.
        couplings: of the model; all their widths are varied.
        run: runs a model on a sample, up to decoded outputs.
        rounds: counted runs at every widths; 0 counts MACs alone.
        progress: called after every run, of which there are :func:`runs`.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()}
    owners, counted = _layers(model, couplings), count(model, run)
    costs = {
        layer: LayerCost(tensor=tensor, shape=tuple(shapes[tensor]), dims=dims, macs=counted.by_layer.get(layer, 0))
        for layer, (tensor, dims) in owners.items()
    }
    table = CostTable(
        device=device_name(next(model.parameters()).device),
        threads=torch.get_num_threads(),
        rest_macs=counted.macs - sum(cost.macs for cost in costs.values()),
        layers=costs,
    )
    if rounds == 0:
        return table
    plans = _plans(couplings)
    with torch.no_grad():
        models = {name: cut(model, kept_entries(shapes, couplings, kept)).eval() for name, kept in plans.items()}
    found = time_segments(models, owners, run, rounds=rounds, progress=progress)
    return _timed(table, [kept_shapes(shapes, couplings, plans[name]) for name in models], list(found.values()))


def _timed(
    table: CostTable, widths: Sequence[Mapping[str, torch.Size]], found: Sequence[Mapping[str, float]]
) -> CostTable:
    """The table with each layer's time fitted to its widths.

    Args:
        table: without times.
        widths: shapes of all tensors, of each measured model; the first is the unpruned one.
        found: seconds of each segment, of each measured model.
    """
    totals = [sum(seconds.values()) for seconds in found]
    layers = {}
    for name, layer in table.layers.items():
        rows = [features(layer.shape, layer.dims, shapes[layer.tensor]) for shapes in widths]
        terms = _fit(rows, [seconds.get(name, 0.0) for seconds in found], totals)
        layers[name] = layer.model_copy(update={"terms": tuple(1000 * term for term in terms)})
    rest = 1000 * median(seconds.get(BEFORE, 0.0) for seconds in found)
    timed = table.model_copy(update={"layers": layers, "rest_ms": rest, "measured_ms": 1000 * totals[0]})
    errors = [abs(timed.latency_ms(shapes) / (1000 * total) - 1) for shapes, total in zip(widths, totals, strict=True)]
    return timed.model_copy(update={"fit_error": median(errors)})


def runs(rounds: int = ROUNDS) -> int:
    """Number of runs for one table, those that are not counted included."""
    return (rounds + 1) * (len(UNIFORM) + MIXED)


def device_name(device: torch.device) -> str:
    """The name of a processor, such as ``NVIDIA H100 80GB HBM3``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")  # Linux alone; platform.processor() is empty on many machines
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _plans(couplings: Sequence[Coupling]) -> dict[str, dict[str, torch.Tensor]]:
    """The channels kept by each cut; the first keeps all."""
    generator = random.Random(0)
    shares: dict[str, Mapping[str, float]] = {f"{share}": {one.name: share for one in couplings} for share in UNIFORM}
    for number in range(MIXED):
        shares[f"mixed {number}"] = {one.name: generator.uniform(0.1, 1.0) for one in couplings}
    return {name: kept_shares(couplings, wanted) for name, wanted in shares.items()}


def _layers(model: nn.Module, couplings: Sequence[Coupling]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By name of each module with weights of its own: its largest weight, and the dimensions that pruning changes."""
    changed: dict[str, set[int]] = {}
    for coupling in couplings:
        for part in coupling.slices:
            changed.setdefault(part.tensor, set()).add(part.dim)
    largest: dict[str, tuple[int, str]] = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        # A vector belongs to a norm or is a bias: its time goes to the layer before.
        if parameter.ndim > 1:
            largest[owner] = max(largest.get(owner, (0, "")), (parameter.numel(), name))
    return {owner: (name, tuple(sorted(changed.get(name, ())))[:2]) for owner, (_, name) in largest.items()}


def _fit(rows: Sequence[Sequence[float]], seconds: Sequence[float], totals: Sequence[float]) -> list[float]:
    """Coefficients of at least 0 with the least squares of errors, each relative to the time of its whole run."""
    from scipy.optimize import nnls  # only here: each process of a search imports this module

    # Relative to the run: an error of a millisecond counts ten times as much in a model ten times as fast.
    weights = 1 / np.asarray(totals)
    found, _ = nnls(np.asarray(rows) * weights[:, None], np.asarray(seconds) * weights)
    return [float(value) for value in found]
