"""The full-size model on a GPU: agreement with the CPU, scoring, training, and inference by stage.

    python -m benchmarks.gpu --dataroot /data/nuscenes --version v1.0-mini

Needs neither Ray nor MLflow. Without ``--dataroot`` the frames are synthetic. Where a data set has fewer LiDAR sweeps
than the model takes, ``--fill-sweeps`` repeats the keyframe's points, each time moved on by half a metre, so that the
number of voxels is that of a real sequence. Weights are random: times and memory do not depend on them. Figures are
written to ``results/gpu-<card>.json``, also when the run is stopped half-way. On a machine without a GPU it runs on the
CPU, which is good for trying it: ``--model bevfusion-mit-toy --repeats 1``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from altermoma_ray.cli import positive_int, run
from altermoma_ray.console import console
from altermoma_ray.data.batch import Batch
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, Sample, collate
from altermoma_ray.data.nuscenes.index import open_index
from altermoma_ray.data.synthetic import generate_at, matches
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.layers.sparse import spconv
from altermoma_ray.pruning import Reactivation, contribution, prunable_weights, redundancy
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.task import DetectionTask
from benchmarks.report import Target, options_parser, publish
from benchmarks.timing import Stages, Timed, alternately

PRECISIONS = ("float32", "TF32", "bfloat16")
"""Arithmetic of dense layers: float32; float32 storage with TF32 products; automatic mixed precision.

The sparse encoder stays in float32 in all three.
"""
MASKED = "camera"
"""The modality that is masked while redundancy is timed: it leaves the sparse encoder at work."""
SPARSITY = 0.85
_MOVE = 0.5  # metres a sweep, as a car at 36 km/h with 20 sweeps a second


@dataclass
class Measured:
    """Everything that was measured so far."""

    rows: dict[str, Timed] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def ratio(self, name: str, above: str, below: str, *, most: float | None = None) -> None:
        """Tell how many times as long one row takes as another."""
        self.targets.append(Target(name, self.rows[above].median / self.rows[below].median, most=most))

    def tell(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        self.targets.append(Target(name, value, least=least, most=most))


class Bench:
    """A model, its task and a batch, on the device and on the CPU.

    Args:
        options: the command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.config = configuration(options.model)
        self.repeats = options.repeats
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        storage = Location.parse(options.storage)
        root, version = _frames(options, storage)
        index = open_index(root, version, storage)
        rows = index.samples("train")
        self.dataset = NuScenesDataset(index, [rows[0]] * 8, self.config.inputs, augment=False, seed=options.seed)
        self.fill = options.fill_sweeps
        # One frame in several augmentations stands for several frames.
        augmented = NuScenesDataset(index, [rows[0]] * 8, self.config.inputs, augment=True, seed=options.seed)
        self.samples = [self.filled(augmented[position]) for position in range(options.batch_size)]
        self.host_batch = collate(self.samples)
        self.batch = self.host_batch.to(self.device)
        self.single = collate([self.filled(self.dataset[0])])
        torch.manual_seed(options.seed)
        self.model = FusionModel(self.config).to(self.device)
        self.task = DetectionTask(self.config.head)

    def filled(self, sample: Sample) -> Sample:
        """The sample with as many LiDAR sweeps as the model takes, if that is wanted; see the module's text."""
        if not self.fill:
            return sample
        wanted = self.config.inputs.sweeps
        there = int(torch.unique(sample.points[:, 4]).numel())
        keyframe = sample.points[sample.points[:, 4] == 0]
        moved = [sample.points]
        for number in range(there, wanted):
            cloud = keyframe.clone()
            cloud[:, 1] -= _MOVE * number
            cloud[:, 4] = 0.05 * number
            moved.append(cloud)
        return replace(sample, points=torch.cat(moved))

    def loss(self, batch: Batch, masked: frozenset[str]) -> Tensor:
        return self.task.loss(self.model(batch, masked), batch)["total"].mean()

    @contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """Compute in one of ``PRECISIONS``; the sparse encoder's own autocast to half precision is kept off."""
        cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        lidar = self.model.encoders["lidar"]
        forward = lidar.forward

        def in_float32(batch: Batch) -> Tensor:
            with torch.autocast(self.device.type, enabled=False):
                return forward(batch)

        try:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name == "TF32"
            lidar.forward = in_float32
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=name == "bfloat16"):
                yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
            del lidar.forward


def main() -> None:
    """Measure part after part, print, and write what there is."""
    parser = options_parser(__doc__)
    parser.add_argument("--version", default="v1.0-trainval", help="nuScenes version (default: %(default)s)")
    parser.add_argument("--model", default="bevfusion-mit", help="named configuration (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="samples of a training step (default: 4)")
    parser.add_argument("--repeats", type=positive_int, default=20, help="of every timing (default: 20)")
    parser.add_argument("--fill-sweeps", action="store_true", help="stand in for LiDAR sweeps that are missing")
    options = parser.parse_args()
    measured = Measured()
    bench = Bench(options)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    measured.facts = {"card": card, "points": [len(cloud) for cloud in bench.host_batch.points]}
    try:
        for part in (agreement, inference, training, scoring):
            console.print(f"[bold]{part.__name__}[/]")
            with torch.random.fork_rng():
                part(bench, measured)
    finally:
        if measured.rows:
            publish(
                options,
                f"gpu-{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}",
                f"{options.model} on {card}",
                measured={name: row.figures() for name, row in measured.rows.items()},
                targets=measured.targets,
                details={
                    **measured.facts,
                    "milliseconds": {name: row.milliseconds for name, row in measured.rows.items()},
                },
            )


def agreement(bench: Bench, measured: Measured) -> None:
    """The sparse encoder and the whole model against their results on the CPU, all in float32."""
    model, single = bench.model.eval(), bench.single
    voxels = _voxels(bench, single.to(bench.device))
    backbone = model.encoders["lidar"].backbone
    sides: list[tuple[Tensor, Tensor]] = []
    for device in (torch.device("cpu"), bench.device):
        backbone.to(device)
        backbone.zero_grad()
        features = voxels.features.to(device)
        out = backbone(features, voxels.indices.to(device), 1)
        out.square().mean().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in backbone.parameters()])
        sides.append((out.detach().cpu(), gradient.cpu()))
    backbone.zero_grad()
    measured.facts["voxels"] = len(voxels.features)
    with bench.precision("float32"), torch.no_grad():
        maps = [{name: bev.cpu() for name, bev in model.features(single.to(bench.device)).items()}]
        again = model.features(single.to(bench.device))
        model.cpu()
        maps.append(model.features(single))
        model.to(bench.device)
    for name, value in (("output", 0), ("gradient", 1)):
        far = _far(sides[1][value], sides[0][value])
        measured.tell(f"sparse encoder, {name}: relative difference to the CPU", far, most=1e-3)
    for name, bev in maps[0].items():
        measured.tell(f"BEV map {name}: relative difference to the CPU", _far(bev, maps[1][name]), most=1e-2)
        measured.tell(f"BEV map {name}: relative difference of two runs", _far(again[name].cpu(), bev))
    # How a number that prints as 0.00 in the table really looks is kept here.
    measured.facts["differences"] = {target.name: target.value for target in measured.targets}


def inference(bench: Bench, measured: Measured) -> None:
    """From pictures and points in files to boxes, one sample at a time: end to end, and by stage."""
    model = bench.model.eval()
    with torch.inference_mode():

        def detecting(precision: str) -> Callable[[], None]:
            def detect() -> None:
                with bench.precision(precision):
                    moved = bench.single.to(bench.device)
                    bench.task.detections(model(moved), moved)[0].boxes.cpu()

            return detect

        sides = {f"inference of one sample, {precision}": detecting(precision) for precision in PRECISIONS}
        measured.rows.update(alternately(sides, bench.repeats))
        camera, lidar = model.encoders["camera"], model.encoders["lidar"]
        watched = {
            "image backbone": camera.backbone,
            "image neck": camera.neck,
            "view transform": camera.view_transform,
            "sparse encoder": lidar.backbone,
            "fuser": model.fuser,
            "BEV decoder": model.decoder,
            "head": model.head,
        }
        stages = Stages()
        for number in range(bench.repeats + 1):
            if number == 1:  # the first round warms up
                stages = Stages()
            with bench.precision("float32"):
                with stages.stage("files, decoding and transforms (CPU)"):
                    batch = collate([bench.filled(bench.dataset[0])])
                with stages.stage("copy to the device"):
                    moved = batch.to(bench.device)
                with stages.stage("voxelisation"):
                    _voxels(bench, moved)
                with stages.watching(watched):
                    outputs = model(moved)
                with stages.stage("decoding of boxes"):
                    bench.task.detections(outputs, moved)[0].boxes.cpu()
    measured.rows.update({f"stage: {name}, float32": row for name, row in stages.timed().items()})


def training(bench: Bench, measured: Measured) -> None:
    """One step of AdamW on a batch, and the same in other precisions."""
    model = bench.model.train()
    parameters = list(model.parameters())
    size = len(bench.batch)

    def stepping(precision: str) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)

        def step() -> None:
            with bench.precision(precision):
                loss = bench.loss(bench.batch, frozenset())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 35.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            measured.facts[f"loss in training, {precision}"] = loss.item()

        return step

    steps = {f"training step of {size}, {precision}": stepping(precision) for precision in PRECISIONS}
    measured.rows.update(alternately(steps, bench.repeats))
    names = list(steps)
    measured.ratio("training step, float32 / bfloat16", names[0], names[2])
    measured.ratio("training step, float32 / TF32", names[0], names[1])


def scoring(bench: Bench, measured: Measured) -> None:
    """DeCI, and ReRI under one mask with one step, against the forward and backward passes that they need."""
    model = bench.model.eval()
    size = len(bench.batch)
    half = max(1, size // 2)
    batches = [bench.batch.samples(start, start + half) for start in range(0, size, half)]
    names = list(prunable_weights(model))
    scored = [name for name in names if model.group_of(name) != MASKED]
    setting = Reactivation(steps=1, learning_rate=1e-4)
    found: list[Tensor] = []

    def deci() -> None:
        found.append(torch.cat([part.flatten() for part in contribution(model, names, bench.loss, batches).values()]))
        del found[:-2]

    def reri() -> None:
        redundancy(model, scored, bench.loss, MASKED, batches, batches[:1], [setting])

    passes = len(batches)
    with bench.precision("float32"):
        ours = {"DeCI": deci, "ReRI": reri}
        bare = {
            "DeCI": lambda: _bare(bench, [(names, frozenset(), batches)]),
            "ReRI": lambda: _bare(
                bench,
                [
                    (scored, frozenset({MASKED}), batches),
                    (list(dict(model.named_parameters())), frozenset({MASKED}), batches[:1]),
                    (scored, frozenset({MASKED}), batches),
                ],
            ),
        }
        for name, count in (("DeCI", passes), ("ReRI", 2 * passes + 1)):
            sides = {f"{name}, {count} passes of {half}": ours[name], f"{name}'s bare passes": bare[name]}
            measured.rows.update(alternately(sides, bench.repeats))
            measured.ratio(f"{name} / bare passes", *sides, most=1.15)
    lowest = [set(values.argsort(stable=True)[: round(SPARSITY * len(values))].tolist()) for values in found[-2:]]
    shared = len(lowest[0] & lowest[1]) / len(lowest[0])
    measured.tell(f"DeCI of two runs: share of the lowest {SPARSITY:.0%} in common", shared, least=0.99)
    measured.facts["DeCI of two runs, relative difference"] = _far(found[-1], found[-2])


def _bare(bench: Bench, work: list[tuple[list[str], frozenset[str], list[Batch]]]) -> None:
    """Forward and backward passes, gradients of the named parameters, and nothing else."""
    for names, masked, batches in work:
        wanted = set(names)
        for name, parameter in bench.model.named_parameters():
            parameter.requires_grad_(name in wanted)
            parameter.grad = None
        for batch in batches:
            bench.loss(batch, masked).backward()
    bench.model.requires_grad_(True)
    bench.model.zero_grad(set_to_none=True)


def _voxels(bench: Bench, batch: Batch) -> spconv.SparseConvTensor:
    """The sparse tensor that the LiDAR encoder makes of a batch's points."""
    encoder = bench.model.encoders["lidar"]
    caught: list[Any] = []
    backbone = encoder.backbone
    try:
        encoder.backbone = _Catch(caught)
        encoder(batch)
    finally:
        encoder.backbone = backbone
    return caught[0]


class _Catch(torch.nn.Module):
    """Stands in for the sparse encoder and keeps what it is given."""

    def __init__(self, caught: list[Any]) -> None:
        super().__init__()
        self.caught = caught

    def forward(self, features: Tensor, coordinates: Tensor, samples: int) -> Tensor:
        """Keep the voxels; the result is never read."""
        self.caught.append(spconv.SparseConvTensor(features, coordinates, [1, 1, 1], samples))
        return features


def _far(one: Tensor, other: Tensor) -> float:
    """Norm of the difference of two tensors over the norm of the second."""
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


def _frames(options: argparse.Namespace, storage: Location) -> tuple[Location, str]:
    """The data set: the user's, or a small synthetic one that is made on first use."""
    if options.dataroot:
        return Location.parse(options.dataroot), options.version
    place = storage.join("gpu-frames")
    if not matches(place, scenes=None, seed=options.seed):
        generate_at(place, seed=options.seed)
    return place, "v1.0-trainval"


if __name__ == "__main__":
    run(main)
