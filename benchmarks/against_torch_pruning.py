"""Our channels against Torch-Pruning's own ranking, at equal MACs and at equal latency.

    python -m benchmarks.against_torch_pruning --model bevfusion-mit-r101-second-toy --shares 0.7,0.5 --seeds 3

Torch-Pruning (Fang et al., *DepGraph*, CVPR 2023) is used as its documentation shows: one pruner with a global ranking
by its own importance, the magnitude of each group of coupled channels. The pruner sees the parts that Torch-Pruning can
follow: convolutions of the camera branch, the view transform, the fuser, the decoder and the head. The sparse encoder,
attention, and the channels where two parts meet stay as they are.

Both sides are cut to the same share of the unpruned model's MACs, or of its predicted latency, and fine-tuned alike:
the same batches, steps and learning rate, with the norms' statistics taken anew before the evaluation.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from altermoma_ray.cli import listed, positive_int, run
from altermoma_ray.engine.scoring.costs import load_costs, stored_costs
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.engine.training.loop import FineTuningBatches, one_cycle, steps_per_epoch, train_steps
from altermoma_ray.engine.training.norms import BATCHES, retake_statistics
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.channels import lift_part, map_part
from altermoma_ray.models.costs import CostTable
from altermoma_ray.storage import Location
from altermoma_ray.workloads.reference import find_workload
from altermoma_ray.workloads.workload import Workload
from benchmarks.report import options_parser

LEAST = 0.1
"""Share of a layer's channels that both sides keep at least."""
LIMITS = {"macs": "--max-macs", "latency": "--max-latency-ms"}
"""Options of `prune` by the cost that they limit."""


class DenseParts(nn.Module):
    """The parts of a model that Torch-Pruning can follow, run side by side on small maps of zeros."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        camera: Any = model.encoders["camera"]
        self.lift, self._seen = lift_part(camera)
        self.downsample = camera.view_transform.downsample
        self.fused, self._maps = map_part(model)
        side = self._maps[0].shape[-1]
        self._splatted = torch.zeros(1, self.downsample[0].in_channels, side, side)
        self.fixed = [camera.view_transform.lift_net[-1], self.downsample[-3], *_of_head(model.head)]

    def forward(self) -> tuple[Tensor, ...]:
        return self.lift(*self._seen), self.downsample(self._splatted), self.fused(*self._maps)


def _of_head(head: Any) -> list[nn.Module]:
    """Layers whose outputs the rest of a TransFusion head reads."""
    return [head.shared_conv, head.heatmap_head[-1]]


def main() -> None:
    """Cut, fine-tune and evaluate both sides at each limit; print JSON."""
    options = _options()
    reference = find_workload("nusc", options.storage, dataroot=options.dataroot, model=options.model)
    workload = reference.load()
    workload.source().prepare()
    model = workload.unpruned(options.checkpoint)
    assert isinstance(model, FusionModel)
    table = load_costs(str(stored_costs(workload, model, Location.parse(options.storage), timed=True)))
    rows = []
    for kind in options.limits:
        unpruned = costs(table, model)[kind]
        for share in options.shares:
            limit = share * unpruned
            ratio, small = least_cut(model, lambda cut, kind=kind, limit=limit: costs(table, cut)[kind] <= limit)
            for seed in range(options.seeds):
                metrics = fine_tuned(workload, copy.deepcopy(small), seed, options)
                rows.append(_row("torch-pruning", kind, share, seed, metrics, costs(table, small)) | {"ratio": ratio})
                print(json.dumps(rows[-1]), file=sys.stderr)
                for criterion in options.criteria:
                    figures = ours(options, criterion, kind, limit, seed)
                    found = {"latency": figures.get("predicted_ms"), "macs": figures["macs"]}
                    rows.append(_row(criterion, kind, share, seed, figures["metrics"], found))
                    print(json.dumps(rows[-1]), file=sys.stderr)
    print(json.dumps(rows, indent=1))


def costs(table: CostTable, model: nn.Module) -> dict[str, float]:
    """Predicted latency in ms, and MACs."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    return {"latency": table.latency_ms(shapes), "macs": float(table.macs(shapes))}


def least_cut(model: FusionModel, is_within: Callable[[FusionModel], bool]) -> tuple[float, FusionModel]:
    """Torch-Pruning's smallest ratio that keeps a limit, to 1/256, and the model cut by the ratio."""
    low, high = 0.0, 1 - LEAST
    found = cut_by_torch_pruning(model, high)
    if not is_within(found):
        raise SystemExit("Torch-Pruning cannot keep this limit: what it cuts is too small a part of the model")
    for _ in range(8):
        middle = (low + high) / 2
        tried = cut_by_torch_pruning(model, middle)
        if is_within(tried):
            high, found = middle, tried
        else:
            low = middle
    return high, found


def cut_by_torch_pruning(model: FusionModel, ratio: float) -> FusionModel:
    """A copy of the model without this share of the channels that Torch-Pruning can remove."""
    small = copy.deepcopy(model).eval().requires_grad_(True)
    parts = DenseParts(small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the attention's parameters, which stay
        pruner = torch_pruning.pruner.BasePruner(
            parts,
            (),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=1 - LEAST,
            ignored_layers=parts.fixed,
            forward_fn=lambda traced, _: traced(),
        )
    pruner.step()
    return small


def fine_tuned(workload: Workload, model: nn.Module, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Metrics of a cut model after fine-tuning as `prune` does it."""
    torch.manual_seed(seed)
    data, recipe, task = workload.source(), workload.recipe, workload.task_for(model)
    rate = float(load_space("nusc", None).published(0.5)["learning_rate"])
    steps = max(1, round(options.finetune * steps_per_epoch(data, recipe)))
    batches = FineTuningBatches(data, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    scheduler = one_cycle(optimizer, steps)
    train_steps(model, task, batches(steps, seed), optimizer, scheduler, clip_norm=recipe.clip_norm)
    retake_statistics(model, batches(BATCHES, seed))
    return Evaluator(data, data.rows("validation"), batch_size=recipe.batch_size)(model, task)


def ours(options: argparse.Namespace, criterion: str, kind: str, limit: float, seed: int) -> dict[str, Any]:
    """The figures of `prune` under the same limit."""
    with TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "altermoma_ray.prune", "nusc", "--model", options.model, "--out", folder]
        line += ["--criterion", criterion, LIMITS[kind], f"{limit:.6g}" if kind == "latency" else str(int(limit))]
        line += ["--finetune", str(options.finetune), "--seed", str(seed), "--storage", options.storage]
        line += ["--dataroot", options.dataroot] if options.dataroot else []
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        figures: dict[str, Any] = json.loads((Path(folder) / "figures.json").read_text())
    return figures


def _row(
    name: str, kind: str, share: float, seed: int, metrics: Mapping[str, float], found: Mapping[str, Any]
) -> dict[str, Any]:
    kept = {metric: metrics[metric] for metric in ("map", "nds")}
    return {"by": name, "limit": kind, "share": share, "seed": seed, **kept, **found}


def _options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument("--model", default="bevfusion-mit-r101-second-toy")
    parser.add_argument("--criteria", type=listed(str), default=["altermoma", "taylor", "snip", "magnitude"])
    parser.add_argument("--shares", type=listed(float), default=[0.7, 0.5], help="of the unpruned model's costs")
    parser.add_argument("--limits", type=listed(str), default=[*LIMITS], help="which costs to make equal")
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--finetune", type=float, default=0.2, help="epochs")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
