"""How much faster a model is without some of its channels, full size, stage by stage, on one keyframe.

    python -m benchmarks.channels --dataroot DIR --version v1.0-mini --sparsity 0.5

The weights are drawn at random: a layer's time depends on its width, not on its values. Which layers become narrow
decides the ratio all the same. Random weights cannot tell, so that every layer loses the same share of its channels;
``--by magnitude`` ranks the random weights, which leaves early layers nearly whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.source import NuScenes
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.counting import count
from altermoma_ray.models.latency import measure
from altermoma_ray.pruning import Target, prunable_weights
from altermoma_ray.pruning.channels import Bounds, cut, kept_entries, kept_shapes
from altermoma_ray.pruning.granularity import Channel
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.workloads.workload import groups_of


def main() -> None:
    """Cut, let both models take turns, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataroot", required=True)
    parser.add_argument("--version", default="v1.0-mini")
    parser.add_argument("--model", default="bevfusion-mit")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--by", choices=("share", "magnitude"), default="share")
    parser.add_argument("--multiple", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", default="float32", help="float32, float16 or both, separated by a comma")
    parser.add_argument("--batch-sizes", default="1", help="samples of a batch, separated by commas (default: 1)")
    options = parser.parse_args()
    # Activations of random weights may become denormal numbers, which a CPU multiplies many times more slowly.
    torch.set_flush_denormal(True)
    config = configuration(options.model)
    torch.manual_seed(0)
    model = config.build().eval()
    channels = Channel(Bounds(multiple=options.multiple)).bound_to(model, model)
    if options.by == "share":
        pruned = by_share(channels, model, options.sparsity)
    else:
        scores = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
        target = Target(groups=groups_of(model), sparsity=options.sparsity)
        pruned = channels.finalise(model, channels.select(scores, target))
    models = {name: one.to(options.device) for name, one in (("unpruned", model), ("pruned", pruned))}
    with tempfile.TemporaryDirectory() as storage:
        source = NuScenes(dataroot=options.dataroot, version=options.version, storage=storage)
        dataset = NuScenesDataset(source.index(), source.rows("train"), config.inputs, augment=False)
        sample = dataset[0]
    batch = collate([sample]).to(options.device)
    counted = {name: count(one, lambda given: given(batch)) for name, one in models.items()}
    print(
        json.dumps(
            {
                "model": options.model,
                "by": options.by,
                "sparsity": 1 - counted["pruned"].parameters / counted["unpruned"].parameters,
                "params": {name: counts.parameters for name, counts in counted.items()},
                "macs": {name: counts.by_group(model.group_of) for name, counts in counted.items()},
                "runs": [
                    timed(options, models, collate([sample] * int(size)).to(options.device), precision)
                    for precision in options.precisions.split(",")
                    for size in options.batch_sizes.split(",")
                ],
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
            },
            indent=1,
        )
    )


def timed(options: argparse.Namespace, models: dict[str, nn.Module], batch: Any, precision: str) -> dict[str, Any]:
    """Latency of both models on one batch, from tensors to boxes.

    float16 is automatic mixed precision; the sparse encoder stays in float32.
    """
    task = DetectionTask(configuration(options.model).head)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"

    def detect(one: nn.Module, given: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.float16, enabled=precision == "float16"):
            return task.decode(one(given), given)

    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(_sparse_in_float32(model, device))
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        found = measure(models, [batch], detect, repeats=options.repeats, warm_up=3 if on_gpu else 1)
    memory = torch.cuda.max_memory_allocated() if on_gpu else 1000 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "precision": precision,
        "batch_size": len(batch),
        "ratio": found["unpruned"].median_ms / found["pruned"].median_ms,
        "median_ms": {name: latency.median_ms for name, latency in found.items()},
        "p95_ms": {name: latency.p95_ms for name, latency in found.items()},
        "stages_ms": {name: latency.stages_ms() for name, latency in found.items()},
        "peak_memory_gb": memory / 1e9,
    }


@contextlib.contextmanager
def _sparse_in_float32(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep a model's LiDAR branch out of autocast while the context is open."""
    branch = model.get_submodule("encoders.lidar")
    forward = branch.forward

    def in_float32(*given: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return forward(*given)

    branch.forward = in_float32
    try:
        yield
    finally:
        del branch.forward


def by_share(channels: Channel, model: nn.Module, sparsity: float) -> nn.Module:
    """The model whose layers all keep the same share of their channels, and which loses this share of its weights."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    whole = sum(map(math.prod, shapes.values()))
    low, high = 0.0, 1.0
    for _ in range(12):
        share = (low + high) / 2
        kept = narrowed(channels, share)
        narrow = kept_shapes(channels.shapes, channels.couplings, kept)
        left = sum(math.prod(narrow[name]) for name in shapes)
        low, high = (share, high) if left < (1 - sparsity) * whole else (low, share)
    kept = narrowed(channels, high)
    return cut(model, kept_entries(channels.shapes, channels.couplings, kept))


def narrowed(channels: Channel, share: float) -> dict[str, torch.Tensor]:
    """The first channels of every layer up to a share of them, in widths that the bounds allow."""
    kept = {}
    for coupling in channels.couplings:
        step = channels.bounds.step(coupling)
        width = min(coupling.channels, step * max(1, round(share * coupling.channels / step)))
        kept[coupling.name] = torch.arange(coupling.channels) < width
    return kept


if __name__ == "__main__":
    main()
