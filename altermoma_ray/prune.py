"""``python -m altermoma_ray.prune nusc --out DIR``: prune one checkpoint by one setting, without a search."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from typing import Any

from altermoma_ray.cli import (
    DEFAULT_DATASET,
    Parser,
    add_bounds_options,
    add_data_options,
    add_worker_options,
    amount,
    bounds_of,
    ratio,
    run,
    seed,
    workload_of,
)
from altermoma_ray.console import console
from altermoma_ray.engine.ray.workers import check_cluster, check_room, ray_session, worker_slots
from altermoma_ray.engine.scoring.score import score
from altermoma_ray.engine.scoring.units import bound_units
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.space.setting import CHANNELS, OWN_FIELDS, PruningSetting, parameter_names
from altermoma_ray.engine.trials.alone import run_alone
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.trial import read_result
from altermoma_ray.errors import UserError
from altermoma_ray.models.counting import Counts, count
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.pruning.granularity import GRANULARITIES
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import Workload

SPARSITY = 0.5


def main() -> None:
    """Plan, score, prune, measure; mistakes are found before data are made and Ray starts."""
    options = _parser().parse_args()
    check_cluster()
    out = Location.parse(options.out)
    # Cheap refusals first: `plan_search` below loads and hashes the checkpoint.
    out.check_writable()
    if options.distil and not options.finetune:
        raise UserError(f"--distil {options.distil:g} teaches while fine-tuning; give --finetune EPOCHS too")
    bounds = bounds_of(options)
    if options.granularity != CHANNELS and bounds != Bounds():
        raise UserError(
            f"--least-share, --multiple and --target go with --granularity {CHANNELS} only, but got "
            f"{options.granularity}; leave them out"
        )
    plan = plan_search(
        SearchRequest(
            workload=workload_of(options),
            checkpoint=options.checkpoint,
            space=load_space(options.dataset or DEFAULT_DATASET, None),
            sparsity=options.sparsity,
            trials=1,
            seed=options.seed,
            workers=options.workers or 1,
            gpus_per_worker=options.gpus_per_worker,
        )
    )
    workload = plan.workload.load()
    # Once, before any worker: workers only read the index, and would else build the same files at the same time.
    workload.source().prepare()
    job, task = _trial(plan, options, bounds)
    # Bound once here: a model that cannot be traced, or a bound on an unknown layer, is told before anything is scored.
    bound_units(task.setting.units, workload.load(Location.parse(plan.checkpoint))[0], workload.source())
    with ray_session():
        # Ray waits for ever for processors which no machine has; a wait without end looks like slow work.
        check_room(plan.workers, plan.gpus_per_worker)
        wanted = [job.scoring_of(task)]
        console.print(f"[bold]scoring[/] by {options.criterion}")
        # Scoring is spread over all free workers, up to 8: a sample's score does not depend on the number of workers.
        every = min(worker_slots(plan.gpus_per_worker), 8)
        computed = score(wanted, workers=every, gpus_per_worker=plan.gpus_per_worker)
        console.print(f"  {computed} computed, {len(wanted[0]) - computed} from storage")
        tuned = f", and fine-tuning {options.finetune:g} epochs" if options.finetune else ""
        tuned += f" with distillation of weight {options.distil:g}" if options.distil else ""
        console.print(f"[bold]pruning[/] {options.sparsity:.0%} of the weights by {options.granularity}{tuned}")
        # After scoring in one Ray session: the trial finds its indicators in storage, as each trial of a search does.
        run_alone(job, task, workers=plan.workers, gpus_per_worker=plan.gpus_per_worker)
    _write(out, plan, workload, job, task)
    print(out)


def _trial(plan: SearchPlan, options: argparse.Namespace, bounds: Bounds) -> tuple[TrialJob, TrialTask]:
    """The only trial: the published setting of the space, with the criterion and granularity that were asked for."""
    published = plan.space.setting(plan.space.published(options.sparsity), plan.sizes, options.sparsity)
    criterion = CRITERIA[options.criterion]
    names = (
        [name for name in OWN_FIELDS if name in parameter_names(criterion)] if criterion.needs == "indicators" else []
    )
    own: dict[str, Any] = {name: getattr(criterion, name) for name in names}
    # One-shot and global: the space's published setting may prune iteratively, or by fixed ratios of each group.
    own |= {"criterion": options.criterion, "granularity": options.granularity, "schedule": "one-shot"}
    own |= {"scope": "global", "ratios": None, "bounds": bounds, "distillation": options.distil}
    setting = PruningSetting.model_validate({**published.model_dump(), **own})
    job = plan.trial_job()
    # No rungs: they stop weak trials among many, and here is one.
    job = job.model_copy(update={"fine_tune_epochs": options.finetune, "rungs": ()})
    task = TrialTask(number=0, setting=setting)
    # The folder is named by everything the result depends on: the same command again finds its result there and only
    # copies the files; another setting gets another folder.
    # The criterion's own key covers its source: an edited criterion prunes anew.
    identity = [
        job.scoring_of(task).folder().name,
        criterion.key(),
        setting.model_dump(mode="json"),
        options.finetune,
        job.seed,
    ]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return job.model_copy(update={"folder": str(plan.storage.join("prunings", f"{plan.model}-{key}"))}), task


def _write(out: Location, plan: SearchPlan, workload: Workload, job: TrialJob, task: TrialTask) -> None:
    """Write the small model, its changed shapes, and last its figures.

    Args:
        out: the user's folder.
        plan: gives the unpruned checkpoint.
        workload: builds both models, and gives the sample to count on.
        job: of the trial.
        task: the trial.
    """
    made = job.trial_folder(task.number)
    # Read back from storage, not returned by the worker: a result found from an earlier run takes the same path.
    result = read_result(job, task.number)
    assert result is not None
    # The plan's checkpoint, not `options.checkpoint`: a released file was converted to ours while planning.
    before, _ = workload.load(Location.parse(plan.checkpoint))
    after, _ = workload.load(made.join("model.safetensors"))
    data = workload.source()
    # One real sample: the cost of sparse convolutions depends on the occupied voxels, so random input would mislead.
    rows = data.rows("validation", limit=1)
    sample = data.collate([data.dataset(rows, augment=False, seed=0)[0]])
    counted: dict[str, Counts] = {
        name: count(model, lambda one: one(sample)) for name, model in (("unpruned", before), ("pruned", after))
    }
    figures = {
        "criterion": task.setting.criterion,
        "granularity": task.setting.granularity,
        "fine_tune_epochs": job.fine_tune_epochs,
        "distillation": task.setting.distillation,
        "bounds": asdict(task.setting.bounds),
        "sparsity": result.sparsity,
        "metrics": result.metrics,
        "params": counted["pruned"].parameters,
        "unpruned_params": counted["unpruned"].parameters,
        "macs": counted["pruned"].macs,
        "unpruned_macs": counted["unpruned"].macs,
        "narrowest_layers": result.configuration["floored_layers"],
    }
    # Whole shapes, of changed tensors only: removed channels show at a layer's output and at its successor's input.
    widths = {
        name: [list(tensor.shape), list(after.state_dict()[name].shape)]
        for name, tensor in before.state_dict().items()
        if tensor.shape != after.state_dict()[name].shape
    }
    out.join("model.safetensors").write_bytes(made.join("model.safetensors").read_bytes())
    out.join("shapes.json").write_text(json.dumps(widths, indent=1))
    # Last of the three files: a script which waits for the figures finds the other two complete.
    out.join("figures.json").write_text(json.dumps(figures, indent=1))
    for metric in (one for one in workload.task.metrics if one.is_column and one.name in result.metrics):
        console.print(f"  {metric.title} {result.metrics[metric.name]:.3f}")
    for what in ("params", "macs"):
        less = 1 - figures[what] / figures[f"unpruned_{what}"]
        console.print(f"  {what} {figures[what]:,} of {figures[f'unpruned_{what}']:,} (−{less:.1%})")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.prune", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="weights to prune: our .safetensors, or a released BEVFusion .pth")
    parser.add_argument("--seed", type=seed, default=0, help="seed of all random draws (default: 0)")
    add_worker_options(parser, workers_help="Ray Train workers of fine-tuning (default: 1)")
    parser.add_argument("--out", required=True, help="folder for the pruned model, its shapes and its figures")
    parser.add_argument(
        "--sparsity", type=ratio, default=SPARSITY, help=f"share of weights to remove (default: {SPARSITY})"
    )
    parser.add_argument(
        "--granularity", choices=tuple(GRANULARITIES), default="channel", help="what is removed (default: channel)"
    )
    add_bounds_options(parser)
    parser.add_argument("--criterion", choices=tuple(CRITERIA), default="altermoma", help="prunes (default: altermoma)")
    parser.add_argument(
        "--finetune",
        type=amount,
        default=0.0,
        metavar="EPOCHS",
        help="epochs of training after pruning (default: 0, which only takes the norms' statistics anew)",
    )
    parser.add_argument(
        "--distil",
        type=amount,
        default=0.0,
        metavar="WEIGHT",
        help="weight of learning the unpruned model's maps and outputs while fine-tuning (default: 0, the task alone)",
    )
    return parser


if __name__ == "__main__":
    run(main)
