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
from scipy.optimize import nnls
from torch import nn

from altermoma_ray.models.costs.segments import BEFORE, Progress, time_segments
from altermoma_ray.models.costs.table import CostTable, LayerCost, features
from altermoma_ray.models.counting import count
from altermoma_ray.pruning.channels import Coupling, cut, kept_entries, kept_shapes, kept_shares

UNIFORM = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)
"""Shares of channels kept in every layer alike."""
MIXED = 9
"""Number of cuts whose shares are drawn for every layer by itself: input and output widths then differ."""


def measure_costs(
    model: nn.Module,
    couplings: Sequence[Coupling],
    run: Callable[[nn.Module], Any],
    *,
    rounds: int = 5,
    progress: Progress = lambda: None,
) -> CostTable:
    """Time a model at several widths, and fit the time of each layer to its widths.

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
        rounds: counted runs at every widths.
        progress: called after every run, of which there are :func:`runs`.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()}
    plans = _plans(couplings)
    with torch.no_grad():
        models = {name: cut(model, kept_entries(shapes, couplings, kept)).eval() for name, kept in plans.items()}
    owners = _layers(model, couplings)
    found = time_segments(models, owners, run, rounds=rounds, progress=progress)
    widths = {name: kept_shapes(shapes, couplings, kept) for name, kept in plans.items()}
    totals = {name: sum(seconds.values()) for name, seconds in found.items()}
    counted = count(model, run)
    costs = {}
    for layer, (tensor, dims) in owners.items():
        rows = [features(shapes[tensor], dims, widths[name][tensor]) for name in models]
        seconds = [found[name].get(layer, 0.0) for name in models]
        terms = _fit(rows, seconds, [totals[name] for name in models])
        costs[layer] = LayerCost(
            tensor=tensor,
            shape=tuple(shapes[tensor]),
            dims=dims,
            terms=tuple(1000 * term for term in terms),
            macs=counted.by_layer.get(layer, 0),
        )
    table = CostTable(
        device=device_name(next(model.parameters()).device),
        threads=torch.get_num_threads(),
        rest_ms=1000 * float(np.median([seconds.get(BEFORE, 0.0) for seconds in found.values()])),
        rest_macs=counted.macs - sum(cost.macs for cost in costs.values()),
        measured_ms=1000 * totals[next(iter(models))],
        layers=costs,
    )
    errors = [abs(table.latency_ms(widths[name]) / (1000 * totals[name]) - 1) for name in models]
    return table.model_copy(update={"fit_error": median(errors)})


def runs(rounds: int = 5) -> int:
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
    # Relative to the run: an error of a millisecond counts ten times as much in a model ten times as fast.
    weights = 1 / np.asarray(totals)
    found, _ = nnls(np.asarray(rows) * weights[:, None], np.asarray(seconds) * weights)
    return [float(value) for value in found]
