"""Cost tables in storage: measured once for a model, a sample and a device, read by every search on them."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from typing import Any

import torch
from pydantic import ValidationError
from rich.progress import Progress
from torch import nn

from altermoma_ray.console import console
from altermoma_ray.engine.scoring.units import bound_units
from altermoma_ray.errors import UserError
from altermoma_ray.models.costs import CostTable, measure_costs
from altermoma_ray.models.costs.measuring import ROUNDS, device_name, runs
from altermoma_ray.models.latency import measure
from altermoma_ray.pruning.granularity import Channel
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import Workload

_CHECK_MS = 30_000.0
"""Milliseconds to spend on runs of the unpruned model when a prediction is checked."""


def stored_costs(
    workload: Workload, model: nn.Module, storage: Location, *, device: str = "cpu", timed: bool = True
) -> Location:
    """The file with a model's cost table, measured first where storage lacks the file.

    The sample is the first one of validation: the time of sparse convolutions depends on the occupied voxels.

    Args:
        workload: the model's data and task.
        model: unpruned; only its architecture matters.
        storage: of the search.
        device: to measure on, such as ``cpu`` or ``cuda``.
        timed: whether latency is needed; MACs alone are counted in one run, and are the same on every device.

    Raises:
        UserError: none of the model's channels can be removed.
    """
    data = workload.source()
    row = data.rows("validation", limit=1)[0]
    processor = torch.device(device)
    # One thread or several, and every release of PyTorch, make other times of the same layers.
    threads = torch.get_num_threads() if processor.type == "cpu" else 0
    place = f"{_plain(device_name(processor))}{f'-{threads}-threads' if threads else ''}" if timed else "macs"
    identity = [_architecture(model), data.fingerprint("validation"), row, *([torch.__version__] if timed else [])]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    file = storage.join("costs", place, f"{workload.name}-{key}.json")
    if not file.exists():
        if timed:
            console.print(f"[bold]measuring[/] the layers of {workload.name} on {device_name(processor)}, once")
        table = _measured(workload, model, row, processor, rounds=ROUNDS if timed else 0)
        file.write_text(table.model_dump_json(indent=1))
    return file


@lru_cache(maxsize=4)
def load_costs(file: str) -> CostTable:
    """Read a cost table of :func:`stored_costs`.

    Raises:
        UserError: the file is missing or damaged.
    """
    place = Location.parse(file)
    try:
        return CostTable.model_validate_json(place.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise UserError(f"the cost table {place} is missing or damaged; delete the file and start again") from error


def measured_latency(workload: Workload, unpruned: nn.Module, pruned: nn.Module, device: str) -> dict[str, float]:
    """Time a pruned model beside the unpruned one, on the sample of the cost table.

    Args:
        workload: the models' data and task.
        unpruned: the unpruned model.
        pruned: the smaller model.
        device: to measure on.

    Returns:
        ``latency_ms`` and ``unpruned_ms``, medians of runs that take turns, and ``ratio``.

    Raises:
        UserError: the device is not on this machine.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"latency is to be measured on {device}, which is not on this machine")
    data, task = workload.source(), workload.task_for(unpruned)
    batch = _sample(data, data.rows("validation", limit=1)).to(device)
    models = {"unpruned": unpruned.eval().to(device), "pruned": pruned.eval().to(device)}

    def run(model: nn.Module, given: Any) -> Any:
        return task.decode(model(given), given)

    first = measure(models, [batch], run, repeats=1)["unpruned"].median_ms
    found = measure(models, [batch], run, repeats=max(3, min(20, round(_CHECK_MS / first))), warm_up=1)
    before, after = found["unpruned"].median_ms, found["pruned"].median_ms
    return {"latency_ms": after, "unpruned_ms": before, "ratio": before / after}


def channels_of(workload: Workload, model: nn.Module, channels: Channel) -> Channel:
    """The channel granularity bound to a workload's model."""
    bound = bound_units(channels, model, workload.source())
    assert isinstance(bound, Channel)
    return bound


def _measured(workload: Workload, model: nn.Module, row: int, device: torch.device, *, rounds: int) -> CostTable:
    couplings = channels_of(workload, model, Channel()).couplings
    data, task = workload.source(), workload.task_for(model)
    batch = _sample(data, [row]).to(device)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("measuring", total=runs(rounds) if rounds else 1)
        return measure_costs(
            model.eval().to(device),
            couplings,
            lambda one: task.decode(one(batch), batch),
            rounds=rounds,
            progress=lambda: progress.advance(bar),
        )


def _sample(data: Any, rows: list[int]) -> Any:
    dataset = data.dataset(rows, augment=False, seed=0)
    return data.collate([dataset[number] for number in range(len(rows))])


def _architecture(model: nn.Module) -> list[Any]:
    config = getattr(model, "config", None)
    described = config.model_dump_json() if hasattr(config, "model_dump_json") else type(model).__qualname__
    return [described, [[name, list(tensor.shape)] for name, tensor in sorted(model.state_dict().items())]]


def _plain(name: str) -> str:
    """A processor's name as the name of a folder.

    >>> _plain("Intel(R) Xeon(R) Processor @ 2.50GHz")
    'intel-r-xeon-r-processor-2-50ghz'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
