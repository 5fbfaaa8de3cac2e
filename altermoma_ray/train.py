"""``python -m altermoma_ray.train nusc``: train a fusion model from scratch, each backbone first on its own."""

from __future__ import annotations

from altermoma_ray.cli import Parser, add_data_options, add_worker_options, reading_of, run, seed
from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.prepare import find_data, prepare_data
from altermoma_ray.engine.ray.workers import check_cluster, check_room, ray_session, worker_slots
from altermoma_ray.engine.training.pretraining import STAGES, TrainingJob, train_stage
from altermoma_ray.engine.training.recipes import recipe
from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.config import configuration
from altermoma_ray.storage import Location


def main() -> None:
    """Train camera, LiDAR and fusion in turn; a stage that was finished before is not trained again."""
    parser = Parser(prog="altermoma_ray.train", description=__doc__)
    add_data_options(parser)
    add_worker_options(parser, workers_help="Ray Train workers (default: what the cluster holds, at most 8)")
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument(
        "--out", help="checkpoint to write (default: STORAGE/training/MODEL-DATA-seedSEED/fusion.safetensors)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of initialisation, data order and augmentation")
    options = parser.parse_args()

    model = options.model or ("bevfusion-mit-toy" if options.dataroot is None else "bevfusion-mit")
    config, figures = configuration(model), recipe(model)
    if (options.workers or 1) > figures.batch_size:
        raise UserError(f"{options.workers} workers cannot share a batch of {figures.batch_size}; take fewer --workers")
    target = Location.parse(options.out) if options.out else None
    if target is not None:
        if target.is_folder():
            raise UserError(f"--out {target} is a folder; give the name of a file")
        target.parent.check_writable()
    check_cluster()
    source = find_data(options.dataset, options.dataroot, options.version, options.storage, reading_of(options))
    prepare_data(source, config.inputs)
    data = source.index().fingerprint[:8]
    folder = source.storage_location.join("training", f"{model}-{data}-seed{options.seed}")
    with ray_session():
        workers = options.workers or min(8, worker_slots(options.gpus_per_worker), figures.batch_size)
        check_room(workers, options.gpus_per_worker)
        for stage in STAGES:
            console.print(f"[bold]training[/] {stage}, {workers} workers")
            job = TrainingJob(
                stage=stage, config=config, recipe=figures, source=source, folder=str(folder), seed=options.seed
            )
            metrics = train_stage(job, workers=workers, gpus_per_worker=options.gpus_per_worker)
            console.print(f"  {stage}: mAP {metrics['map']:.3f}, NDS {metrics['nds']:.3f}")
    written = folder.join("fusion.safetensors")
    if target is not None:
        target.write_bytes(written.read_bytes())
        written = target
    print(written)


if __name__ == "__main__":
    run(main)
