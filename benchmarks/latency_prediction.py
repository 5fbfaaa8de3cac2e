"""Predicted against measured latency: a cost table, and random plans that it has not seen.

    python -m benchmarks.latency_prediction --model bevfusion-mit-toy --plans 20
    python -m benchmarks.latency_prediction --model bevfusion-mit --dataroot DIR --version v1.0-mini --rounds 2

Weights are drawn at random: a layer's time depends on its width, not on its values. A plan removes the channels of the
lowest random scores, at a sparsity drawn from 0.1 to 0.8; each layer's scores have a scale of their own, so that some
layers become much narrower than others. Measured is the sum of the least times of all segments, as in the table: CPU
time where PyTorch has one thread, else time on the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from statistics import median

import torch

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.source import NuScenes
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.costs import measure_costs
from altermoma_ray.models.costs.measuring import runs
from altermoma_ray.models.costs.segments import time_segments
from altermoma_ray.models.counting import count
from altermoma_ray.pruning import Target, prunable_weights
from altermoma_ray.pruning.channels import kept_shapes
from altermoma_ray.pruning.channels.couplings import kept_channels
from altermoma_ray.pruning.granularity import Channel
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.workloads.workload import groups_of


def main() -> None:
    """Measure the table, then the plans; print JSON."""
    options = _options()
    config = configuration(options.model)
    torch.manual_seed(0)
    model = config.build().eval()
    batch = _sample(options, config).to(options.device)
    task = DetectionTask(config.head)
    channels = Channel().bound_to(model, model)
    model = model.to(options.device)

    def run(one: torch.nn.Module) -> object:
        return task.decode(one(batch), batch)

    begun, steps = time.monotonic(), 0

    def progress() -> None:
        nonlocal steps
        steps += 1
        if steps % 16 == 0:
            print(f"{steps} runs, {time.monotonic() - begun:.0f} s", file=sys.stderr)

    print(f"table: {runs(options.rounds)} runs, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    table = measure_costs(model, channels.couplings, run, rounds=options.rounds, progress=progress)
    seconds = time.monotonic() - begun
    models, predicted, macs_are_right = {"unpruned": model}, {"unpruned": table.latency_ms(table.unpruned)}, []
    for number in range(options.plans):
        masks = _random_plan(channels, model, number)
        shapes = kept_shapes(channels.shapes, channels.couplings, kept_channels(channels.couplings, masks))
        name = f"plan {number}, sparsity {masks.sparsity():.2f}"
        models[name] = channels.finalise(model, masks).eval()
        predicted[name] = table.latency_ms(shapes)
        macs_are_right.append(table.macs(shapes) == count(models[name], run).macs)
    print(f"plans: {(options.rounds + 1) * len(models)} runs, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    found = time_segments(models, table.layers, run, rounds=options.rounds, progress=progress)
    measured = {name: 1000 * sum(parts.values()) for name, parts in found.items()}
    plans = [name for name in models if name != "unpruned"]
    absolute = [predicted[name] / measured[name] - 1 for name in plans]
    relative = [predicted[name] / predicted["unpruned"] / (measured[name] / measured["unpruned"]) - 1 for name in plans]
    figures = {
        "model": options.model,
        "device": table.device,
        "threads": table.threads,
        "rounds": options.rounds,
        "load_average": os.getloadavg()[0],
        "table_seconds": seconds,
        "unpruned_ms": {"table": table.measured_ms, "predicted": predicted["unpruned"], "again": measured["unpruned"]},
        "fit_error": table.fit_error,
        "median_error": median(map(abs, absolute)),
        "worst_error": max(map(abs, absolute)),
        "median_error_of_ratio": median(map(abs, relative)),
        "worst_error_of_ratio": max(map(abs, relative)),
        "macs_equal": all(macs_are_right),
        "plans": {name: {"predicted_ms": predicted[name], "measured_ms": measured[name]} for name in models},
    }
    print(json.dumps(figures, indent=1))


def _random_plan(channels: Channel, model: torch.nn.Module, seed: int) -> object:
    generator, scale = torch.Generator().manual_seed(seed), random.Random(seed)
    scores = {
        name: torch.rand(weight.shape, generator=generator) * math.exp(scale.gauss(0, 0.5))
        for name, weight in prunable_weights(model).items()
    }
    # Within the reach of the bounds: every layer keeps a tenth of its channels.
    return channels.select(scores, Target(groups=groups_of(model), sparsity=scale.uniform(0.1, 0.8)))


def _sample(options: argparse.Namespace, config: object) -> object:
    with tempfile.TemporaryDirectory() as storage:
        source = NuScenes(dataroot=options.dataroot, version=options.version, storage=options.storage or storage)
        if options.dataroot is None:
            source.prepare()
        dataset = NuScenesDataset(source.index(), source.rows("train", limit=1), config.inputs, augment=False)
        return collate([dataset[0]])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", help="nuScenes folder (default: the synthetic one in --storage)")
    parser.add_argument("--version")
    parser.add_argument("--storage")
    parser.add_argument("--model", default="bevfusion-mit-toy")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
