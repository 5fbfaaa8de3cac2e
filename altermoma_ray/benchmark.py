"""``python -m altermoma_ray.benchmark nusc --pruned DIR``: how fast a pruned model is, beside the unpruned one."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from rich.table import Table

from altermoma_ray.cli import Parser, add_data_options, device, positive_int, run, workload_of
from altermoma_ray.console import console
from altermoma_ray.models.counting import count
from altermoma_ray.models.latency import Latency, measure
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import Workload

UNPRUNED, PRUNED = "unpruned", "pruned"


def main() -> None:
    """Load both models, let them take turns on real samples, and print what each takes."""
    options = _parser().parse_args()
    workload = workload_of(options).load()
    workload.source().prepare()
    figures = benchmark(workload, options)
    if options.format == "json":
        print(json.dumps(figures, indent=1))
        return
    stages = list(figures["stages_ms"][PRUNED])
    table = Table("ms", *(stage.rpartition(".")[2] for stage in stages), "all", "95 %")
    for name, key in ((UNPRUNED, "unpruned_ms"), (PRUNED, "latency_ms")):
        shown = [figures["stages_ms"][name].get(stage, 0.0) for stage in stages]
        table.add_row(name, *(f"{value:.1f}" for value in (*shown, figures[key], figures["p95_ms"][name])))
    console.print(table)
    console.print(
        f"{figures['ratio']:.2f} times as fast on {figures['device']} with {figures['threads']} threads; "
        f"parameters {figures['params']:,} of {figures['unpruned_params']:,}, "
        f"MACs {figures['macs']:,} of {figures['unpruned_macs']:,}"
    )


def benchmark(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of both models.

    Args:
        workload: names the data, the task and the unpruned model.
        options: of the command line.
    """
    device = torch.device(options.device)
    place = Location.parse(options.pruned)
    small, _ = workload.load(place.join("model.safetensors") if place.is_folder() else place)
    models = {UNPRUNED: workload.unpruned(options.checkpoint), PRUNED: small}
    for model in models.values():
        model.eval().to(device)
    data = workload.source()
    rows = data.rows("validation", limit=options.samples)
    dataset = data.dataset(rows, augment=False, seed=0)
    batches = [data.collate([dataset[number]]).to(device) for number in range(len(rows))]
    task = workload.task_for(models[UNPRUNED])
    with console.status("measuring"):
        found: dict[str, Latency] = measure(
            models,
            batches,
            lambda model, batch: task.decode(model(batch), batch),
            repeats=options.repeats,
        )
    counted = {name: count(model, lambda one: one(batches[0])) for name, model in models.items()}
    return {
        "ratio": found[UNPRUNED].median_ms / found[PRUNED].median_ms,
        "latency_ms": found[PRUNED].median_ms,
        "unpruned_ms": found[UNPRUNED].median_ms,
        "p95_ms": {name: latency.p95_ms for name, latency in found.items()},
        "stages_ms": {name: latency.stages_ms() for name, latency in found.items()},
        "params": counted[PRUNED].parameters,
        "unpruned_params": counted[UNPRUNED].parameters,
        "macs": counted[PRUNED].macs,
        "unpruned_macs": counted[UNPRUNED].macs,
        "samples": len(rows),
        "repeats": options.repeats,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.benchmark", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="the unpruned weights (default: those of the workload)")
    parser.add_argument("--pruned", required=True, help="the pruned model: a file, or a folder with model.safetensors")
    parser.add_argument("--samples", type=positive_int, default=8, help="validation samples to run on (default: 8)")
    parser.add_argument("--repeats", type=positive_int, default=30, help="timed runs of each model (default: 30)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the figures (default: table)")
    return parser


if __name__ == "__main__":
    run(main)
