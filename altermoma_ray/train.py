"""``python -m altermoma_ray.train nusc``: train a fusion model from scratch, each backbone first on its own."""

from __future__ import annotations

from altermoma_ray.cli import Parser, add_data_options, add_worker_options, run, seed, workload_of
from altermoma_ray.console import console
from altermoma_ray.engine.ray.workers import check_cluster, check_room, ray_session, worker_slots
from altermoma_ray.engine.training.pretraining import TrainingJob, train_stage
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location


def main() -> None:
    """Train the recipe's stages in turn; a finished stage is not trained again."""
    parser = Parser(prog="altermoma_ray.train", description=__doc__)
    add_data_options(parser)
    add_worker_options(parser, workers_help="Ray Train workers (default: what the cluster holds, at most 8)")
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument(
        "--out", help="checkpoint to write (default: STORAGE/training/MODEL-DATA-seedSEED/fusion.safetensors)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of initialisation, data order and augmentation")
    options = parser.parse_args()

    target = Location.parse(options.out) if options.out else None
    if target is not None:
        if target.is_folder():
            raise UserError(f"--out {target} is a folder; give the name of a file")
        # Found before training: `--out` is written last, days after a mistake in its address.
        target.parent.check_writable()
    check_cluster()
    reference = workload_of(options)
    workload = reference.load()
    recipe = workload.recipe
    if not recipe.stages:
        raise UserError(f"the recipe of {workload.name} has no stages; add them, or train the model elsewhere")
    # A worker without a sample would have no gradient to average, and the others would wait for it in the collective.
    if (options.workers or 1) > recipe.batch_size:
        raise UserError(f"{options.workers} workers cannot share a batch of {recipe.batch_size}; take fewer --workers")
    workload.source().prepare()
    # Data and seed are part of the folder's name: a stage's checkpoint is reused only for the training it came from.
    data = workload.source().fingerprint("train")[:8]
    folder = reference.storage_location.join("training", f"{workload.name}-{data}-seed{options.seed}")
    with ray_session():
        # A default must pass the check above as well: never more workers than samples in a batch.
        workers = options.workers or min(8, worker_slots(options.gpus_per_worker), recipe.batch_size)
        check_room(workers, options.gpus_per_worker)
        # In order and one at a time: a later stage starts from the checkpoints of earlier ones.
        for stage in recipe.stages:
            console.print(f"[bold]training[/] {stage.name}, {workers} workers")
            job = TrainingJob(
                workload=reference, recipe=recipe, stage=stage.name, folder=str(folder), seed=options.seed
            )
            metrics = train_stage(job, workers=workers, gpus_per_worker=options.gpus_per_worker)
            shown = [metric for metric in workload.task.metrics if metric.is_column and metric.name in metrics]
            figures = ", ".join(f"{metric.title} {metrics[metric.name]:.3f}" for metric in shown)
            console.print(f"  {stage.name}: {figures}")
    written = folder.join(f"{recipe.stages[-1].name}.safetensors")
    if target is not None:
        # A copy: the stage's own checkpoint stays, so that the same command again finds all its stages done.
        target.write_bytes(written.read_bytes())
        written = target
    print(written)


if __name__ == "__main__":
    run(main)
