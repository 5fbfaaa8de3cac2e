"""``python -m altermoma_ray.prune nusc --out DIR``: prune one checkpoint by one setting, without a search."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from typing import Any

from torch import nn

from altermoma_ray.cli import (
    DEFAULT_DATASET,
    Parser,
    add_bounds_options,
    add_cost_options,
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
from altermoma_ray.engine.scoring.costs import measured_latency
from altermoma_ray.engine.scoring.indicators import ScoringJob
from altermoma_ray.engine.scoring.score import score
from altermoma_ray.engine.scoring.units import bound_units
from altermoma_ray.engine.search.costs import check_priced, with_costs
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.space.setting import CHANNELS, OWN_FIELDS, PruningSetting, parameter_names
from altermoma_ray.engine.trials.alone import run_alone
from altermoma_ray.engine.trials.answer import Answer, answer
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.errors import UserError
from altermoma_ray.models.counting import Counts, count
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.pruning.granularity import GRANULARITIES
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import Workload

SPARSITY = 0.5
"""Share of weights to remove where neither an option nor a budget tells."""


def main() -> None:
    """Plan, score, prune, measure; mistakes are found before data are made and Ray starts."""
    options = _parser().parse_args()
    check_cluster()
    out = Location.parse(options.out)
    # Cheap refusals first: `plan_search` below loads and hashes the checkpoint.
    out.check_writable()
    _check(options)
    plan = plan_search(
        SearchRequest(
            workload=workload_of(options),
            checkpoint=options.checkpoint,
            space=load_space(options.dataset or DEFAULT_DATASET, None),
            sparsity=SPARSITY if options.sparsity is None else options.sparsity,
            max_latency_ms=options.max_latency_ms,
            max_macs=options.max_macs,
            is_least_sparsity=options.sparsity is not None,
            device=options.device,
            trials=1,
            seed=options.seed,
            workers=options.workers or 1,
            gpus_per_worker=options.gpus_per_worker,
        )
    )
    workload = plan.workload.load()
    # Once, before any worker: workers only read the index, and would else build the same files at the same time.
    workload.source().prepare()
    setting = _setting(plan, options)
    plan = with_costs(plan, setting)
    if not plan.budget:
        # Bound once here: a model without a trace, or a bound on an unknown layer, is told before anything is scored.
        bound_units(setting.units, workload.load(Location.parse(plan.checkpoint))[0], workload.source())
    job, task = _trial(plan, setting, options)
    wanted = job.scoring_of(task)
    if options.dry_run and not len(wanted.missing()):  # answered at once: Ray would take longer to start
        _tell(out, answer(job, task))
        return
    with ray_session():
        # Ray waits for ever for processors which no machine has; a wait without end looks like slow work.
        check_room(plan.workers, plan.gpus_per_worker)
        _score(plan, wanted, options.criterion)
        answered = answer(job, task) if plan.budget else None
        if answered is not None:
            _tell(out, answered)
        if options.dry_run:
            return
        share = plan.sparsity if answered is None else answered.sparsity
        tuned = f", and fine-tuning {options.finetune:g} epochs" if options.finetune else ""
        tuned += f" with distillation of weight {options.distil:g}" if options.distil else ""
        console.print(f"[bold]pruning[/] {share:.0%} of the weights by {options.granularity}{tuned}")
        # After scoring in one Ray session: the trial finds its indicators in storage, as each trial of a search does.
        run_alone(job, task, workers=plan.workers, gpus_per_worker=plan.gpus_per_worker)
    _write(out, plan, workload, job, task)
    print(out)


def _check(options: argparse.Namespace) -> None:
    """Check the options against each other.

    Raises:
        UserError: criterion, granularity, budget and distillation do not go together.
    """
    is_limited = options.max_latency_ms is not None or options.max_macs is not None
    if options.distil and not options.finetune:
        raise UserError(f"--distil {options.distil:g} teaches while fine-tuning; give --finetune EPOCHS too")
    bounds = bounds_of(options)  # first of all, since bounds may be out of range whatever the granularity is
    if options.granularity != CHANNELS and bounds != Bounds():
        raise UserError(
            f"--least-share, --multiple and --target go with --granularity {CHANNELS} only, but got "
            f"{options.granularity}; leave them out"
        )
    if is_limited:
        check_priced([options.granularity], [options.criterion])
    elif options.dry_run:
        raise UserError("--dry-run answers a limit of costs; add --max-latency-ms or --max-macs")


def _score(plan: SearchPlan, wanted: ScoringJob, criterion: str) -> None:
    console.print(f"[bold]scoring[/] by {criterion}")
    # Scoring is spread over all free workers, up to 8: a sample's score does not depend on the number of workers.
    every = min(worker_slots(plan.gpus_per_worker), 8)
    computed = score([wanted], workers=every, gpus_per_worker=plan.gpus_per_worker)
    console.print(f"  {computed} computed, {len(wanted) - computed} from storage")


def _tell(out: Location, answered: Answer) -> None:
    """Print the answer to a budget, and write it to ``budget.json``."""
    for layer, (before, after) in answered.widths.items():
        console.print(f"  {layer} {after} of {before}")
    latency = ""
    if answered.latency_ms is not None:
        latency = f"{answered.latency_ms:.1f} ms, unpruned {answered.unpruned_ms:.1f} ms; "
    console.print(
        f"[bold]predicted[/] {latency}MACs {answered.macs:,} of {answered.unpruned_macs:,}; "
        f"sparsity {answered.sparsity:.3f}"
    )
    out.join("budget.json").write_text(answered.model_dump_json(indent=1))


def _setting(plan: SearchPlan, options: argparse.Namespace) -> PruningSetting:
    """The published setting of the space, with the criterion and granularity that were asked for."""
    published = plan.space.setting(plan.space.published(plan.sparsity), plan.sizes, plan.sparsity)
    criterion = CRITERIA[options.criterion]
    names = (
        [name for name in OWN_FIELDS if name in parameter_names(criterion)] if criterion.needs == "indicators" else []
    )
    own: dict[str, Any] = {name: getattr(criterion, name) for name in names}
    # One-shot and global: the space's published setting may prune iteratively, or by fixed ratios of each group.
    own |= {"criterion": options.criterion, "granularity": options.granularity, "schedule": "one-shot"}
    own |= {"scope": "global", "ratios": None, "bounds": bounds_of(options), "distillation": options.distil}
    return PruningSetting.model_validate({**published.model_dump(), **own})


def _trial(plan: SearchPlan, setting: PruningSetting, options: argparse.Namespace) -> tuple[TrialJob, TrialTask]:
    """The only trial."""
    job = plan.trial_job()
    # No rungs: they stop weak trials among many, and here is one.
    job = job.model_copy(update={"fine_tune_epochs": options.finetune, "rungs": ()})
    task = TrialTask(number=0, setting=setting)
    # The folder is named by everything the result depends on: the same command again finds its result there and only
    # copies the files; another setting gets another folder.
    # The criterion's own key covers its source: an edited criterion prunes anew.
    identity = [
        job.scoring_of(task).folder().name,
        CRITERIA[options.criterion].key(),
        setting.model_dump(mode="json"),
        options.finetune,
        job.seed,
        # Left out without a budget: results of earlier releases are found again.
        *([job.budget.model_dump(), Location.parse(job.costs).name] if job.budget and job.costs else []),
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
    if plan.budget:
        figures |= _latency(out, workload, before, after, plan.device)
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


def _latency(out: Location, workload: Workload, before: nn.Module, after: nn.Module, device: str) -> dict[str, Any]:
    """The predicted and the measured latency, and the widths."""
    answered = Answer.model_validate_json(out.join("budget.json").read_bytes())
    measured = measured_latency(workload, before, after, device)
    console.print(
        f"[bold]measured[/] {measured['latency_ms']:.1f} ms, unpruned {measured['unpruned_ms']:.1f} ms: "
        f"{measured['ratio']:.2f} times as fast"
    )
    return {
        "predicted_ms": answered.latency_ms,
        "predicted_unpruned_ms": answered.unpruned_ms,
        **measured,
        "device": answered.device,
        "threads": answered.threads,
        "widths": answered.widths,
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.prune", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="weights to prune: our .safetensors, or a released BEVFusion .pth")
    parser.add_argument("--seed", type=seed, default=0, help="seed of all random draws (default: 0)")
    add_worker_options(parser, workers_help="Ray Train workers of fine-tuning (default: 1)")
    parser.add_argument("--out", required=True, help="folder for the pruned model, its shapes and its figures")
    parser.add_argument(
        "--sparsity",
        type=ratio,
        help=f"share of weights to remove (default: {SPARSITY}); with a limit of costs the least share (default: 0)",
    )
    add_cost_options(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only tell the widths that a limit of costs asks for, and what they cost"
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
