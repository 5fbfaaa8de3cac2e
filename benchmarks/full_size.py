"""One scoring pass and one training step of each full-size model: time, memory, and whether all numbers are finite.

    python -m benchmarks.full_size --models bevfusion-pku,bevfusion-r --device cuda
    python -m benchmarks.full_size --models bevfusion-pku --dataroot DIR --version v1.0-mini

Needs neither Ray nor MLflow. Without ``--dataroot`` the frames are synthetic. The weights are drawn at random: times
and memory do not depend on them. Normalisation has the sample's own statistics. The scoring pass is DeCI over all
modalities, then ReRI with each modality masked in turn and one reactivation step, all on one sample; the training step
is AdamW on the same sample. Each is run once to warm up and once for the figure.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from altermoma_ray.cli import add_storage_option, run
from altermoma_ray.pruning import Reactivation, contribution, prunable_weights, redundancy
from altermoma_ray.workloads.reference import find_workload
from altermoma_ray.workloads.workload import groups_of
from benchmarks.report import machine, write

FULL_SIZE = (
    "bevfusion-mit",
    "bevfusion-mit-seg",
    "bevfusion-mit-r101-second",
    "bevfusion-mit-centerpoint",
    "bevfusion-mit-pointpillars",
    "bevfusion-pku",
    "bevfusion-pku-dual",
    "bevfusion-pku-r101-pointpillars",
    "bevfusion-r",
)
"""The full-size models on nuScenes. Tracking has the weights of ``bevfusion-mit``."""


def main() -> None:
    """Measure model after model, print JSON lines, and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="nusc", help="named workload (default: %(default)s)")
    parser.add_argument("--models", default=",".join(FULL_SIZE), help="separated by commas (default: %(default)s)")
    parser.add_argument("--dataroot", help="folder of the data set (default: synthetic frames, made on first use)")
    parser.add_argument("--version", help="nuScenes version, such as v1.0-mini")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    add_storage_option(parser)
    options = parser.parse_args()
    # Activations of random weights may become denormal numbers, which a CPU multiplies many times more slowly.
    torch.set_flush_denormal(True)
    found = {}
    for name in options.models.split(","):
        found[name] = figures(options, name)
        print(json.dumps({name: found[name]}), flush=True)
        if options.out:
            write(options.out, {"machine": machine(), "device": options.device, "models": found})


def figures(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Time, memory and finiteness of one model's passes."""
    workload = find_workload(
        options.dataset, options.storage, dataroot=options.dataroot, version=options.version, model=name
    ).load()
    source = workload.source()
    if options.dataroot is None:
        source.prepare()  # a data set of the user's is not asked for a validation split here
    dataset = source.dataset(source.rows("train")[:1], augment=False, seed=0)
    torch.manual_seed(0)
    model = workload.build().to(options.device)
    task = workload.task_for(model)
    batch = source.collate([dataset[0]]).to(options.device)
    _settle(model, batch)

    def loss(given: Any, masked: frozenset[str]) -> Tensor:
        return task.loss(model(given, masked), given)["total"].mean()

    groups = groups_of(model)
    scoring, scores = _timed(lambda: _score(model, groups, loss, batch), options.device)
    training, losses = _timed(lambda: _train(model, loss, batch), options.device)
    everything = [*scores, *losses, *(parameter.detach() for parameter in model.parameters())]
    return {
        "parameters": {
            group: sum(parameter.numel() for key, parameter in model.named_parameters() if model.group_of(key) == group)
            for group in groups
        },
        "scoring": scoring,
        "training": training,
        "loss": losses[-1].item(),
        "finite": all(bool(torch.isfinite(values).all()) for values in everything),
    }


@torch.no_grad()
def _settle(model: nn.Module, batch: Any) -> None:
    """Give normalisation the statistics of a batch: without them the values of a deep random model grow from layer to
    layer until a gradient is no number."""
    momenta = {layer: layer.momentum for layer in model.modules() if isinstance(layer, _BatchNorm)}
    for layer in momenta:
        layer.reset_running_stats()
        layer.momentum = None  # an average over all batches seen, of which there is one
    model.train()
    model(batch)
    for layer, momentum in momenta.items():
        layer.momentum = momentum


def _score(
    model: Any, groups: Mapping[str, list[str]], loss: Callable[[Any, frozenset[str]], Tensor], batch: Any
) -> list[Tensor]:
    """DeCI, and ReRI with each modality masked."""
    model.eval()
    names = list(prunable_weights(model))
    found = [*contribution(model, names, loss, [batch]).values()]
    for modality in model.modalities:
        scored = [name for name in names if name not in groups[modality]]
        setting = Reactivation(steps=1, learning_rate=1e-4)
        for weights in redundancy(model, scored, loss, modality, [batch], [batch], [setting]).values():
            found += weights.values()
    return found


def _train(model: nn.Module, loss: Callable[[Any, frozenset[str]], Tensor], batch: Any) -> list[Tensor]:
    """One step of AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    value = loss(batch, frozenset())
    value.backward()
    gradients = [parameter.grad.detach() for parameter in model.parameters() if parameter.grad is not None]
    optimizer.step()
    norms = [torch.stack([gradient.norm() for gradient in gradients])]
    optimizer.zero_grad(set_to_none=True)
    return [*norms, value.detach()]


def _timed(work: Callable[[], list[Tensor]], device: str) -> tuple[dict[str, float], list[Tensor]]:
    """Run twice; the second run's milliseconds and the greatest memory of the device, in GiB."""
    work()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize()
    milliseconds = (time.perf_counter() - began) * 1e3
    # Of a process on a CPU only the greatest memory so far is known: with several models, the greatest of them.
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    used = torch.cuda.max_memory_allocated() if on_gpu else process
    return {"milliseconds": round(milliseconds, 1), "memory_gib": round(used / 2**30, 2)}, result


if __name__ == "__main__":
    run(main)
