"""BEVFusion on nuScenes: ``search nusc``, on the user's data set or on a synthetic one that is made on first use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict
from torch import nn

from altermoma_ray.data.nuscenes.dataroot import check_dataroot
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.data.nuscenes.source import Kind, NuScenes, synthetic_folder
from altermoma_ray.data.nuscenes.splits import DEFAULT_VERSION
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.configurations.config import ModelConfig, parse_configuration
from altermoma_ray.models.configurations.families import check_family
from altermoma_ray.models.configurations.named import CONFIGURATIONS, adopted, configuration
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig
from altermoma_ray.models.weights.load import load_weights
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.anchors import AnchorTask
from altermoma_ray.tasks.detection.bev_detection import BevDetection
from altermoma_ray.tasks.detection.centerpoint import CenterPointTask
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tasks.segmentation.task import SegmentationTask
from altermoma_ray.tasks.tracking.task import TrackingTask
from altermoma_ray.workloads.protocols import Task
from altermoma_ray.workloads.recipe import Recipe, Stage
from altermoma_ray.workloads.workload import Workload

PUBLISHED, TOY = "bevfusion-mit", "bevfusion-mit-toy"
TOY_RESNET = "bevfusion-mit-r101-second-toy"
PUBLISHED_RADAR, TOY_RADAR, TOY_TRIO = "bevfusion-r", "bevfusion-r-toy", "bevfusion-trio-toy"
PUBLISHED_PKU, DUAL_PKU, TOY_PKU = "bevfusion-pku", "bevfusion-pku-dual", "bevfusion-pku-toy"
PUBLISHED_PKU_PILLARS, TOY_PKU_PILLARS = "bevfusion-pku-r101-pointpillars", "bevfusion-pku-r101-pointpillars-toy"
TOY_CENTERPOINT, TOY_PILLARS = "bevfusion-mit-centerpoint-toy", "bevfusion-mit-pointpillars-toy"
PUBLISHED_MAP, TOY_MAP = "bevfusion-mit-seg", "bevfusion-mit-seg-toy"
PUBLISHED_TRACKS, TOY_TRACKS = "bevfusion-mit-track", "bevfusion-mit-track-toy"
_CHECKPOINTS = Path(__file__).parents[1] / "models" / "checkpoints"
CHECKPOINTS = {
    **{
        name: _CHECKPOINTS / f"{name}.safetensors"
        for name in (
            TOY,
            TOY_RESNET,
            TOY_MAP,
            TOY_PKU,
            TOY_PKU_PILLARS,
            TOY_RADAR,
            TOY_TRIO,
            TOY_CENTERPOINT,
            TOY_PILLARS,
        )
    },
    TOY_TRACKS: _CHECKPOINTS / f"{TOY}.safetensors",  # a tracker has no weights
}
"""The checkpoints that come with the project, for the synthetic sets, by their models' names."""
SHIPPED = CHECKPOINTS[TOY]


class Options(BaseModel):
    """The data set and the model that a command asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataroot: Place
    """Local path or ``pyarrow.fs`` URI of nuScenes."""
    version: str = DEFAULT_VERSION
    """Such as ``v1.0-trainval`` or ``v1.0-mini``."""
    model: str
    """Named configuration of the model."""
    reading: Reading = AS_PUBLISHED
    """How the dataroot is read where it differs from a published nuScenes."""


# At the module's top level, since workers and MLflow unpickle objects by the names of their classes.
class BevFusion(Workload):
    """A BEVFusion detector, tracker or map segmentation model; its weights may be a released checkpoint."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return cast(ModelConfig, self.model).modalities

    def build(self, configuration: str | None = None) -> nn.Module:
        """A new model, of a checkpoint's configuration where one is given."""
        # A checkpoint's header has the last word: released weights can differ from the named model in box heights.
        if configuration is None:
            config = cast(ModelConfig, self.model)
        else:
            check_family(configuration, CONFIGURATIONS, "the checkpoint")
            config = adopted(parse_configuration(configuration, "the checkpoint"), self.model)
        return config.build()

    def task_for(self, model: nn.Module) -> Task:
        """The task of the model's own head: released weights may regress another height."""
        return _task(cast(FusionModel, model).config)

    def unpruned(self, checkpoint: str | None = None) -> nn.Module:
        """The model that is to be pruned, from a released checkpoint or one of ours.

        Raises:
            UserError: there are no weights, or they do not fit the model.
        """
        # A randomly initialised BEVFusion is refused: its indicators rank noise, and no figure of a search would tell.
        place = checkpoint or self.checkpoint
        if place is None:
            raise UserError(
                f"no weights for {self.name}: give --checkpoint FILE (released .pth or our .safetensors), "
                f"or train one with python -m altermoma_ray.train"
            )
        return load_weights(Location.parse(place), self.model)


def find(
    storage: Location,
    *,
    dataroot: str | None = None,
    version: str | None = None,
    model: str | None = None,
    reading: Reading | None = None,
) -> Options:
    """The options of a command; nothing is made or read yet.

    Args:
        storage: folder or URI for everything derived.
        dataroot: path or URI of nuScenes; None for the synthetic toy set.
        version: of nuScenes; None for ``v1.0-trainval``.
        model: named configuration; None for the toy on the synthetic set, else the published model.
        reading: how the dataroot is read where it differs from a published nuScenes.

    Raises:
        UserError: the data set or the model is unknown or missing, or storage cannot be written.
    """
    # Checked first: each later step writes to storage, and hours of scoring would be lost on a read-only folder.
    storage.check_writable()
    version = version or DEFAULT_VERSION
    config = configuration(model or (TOY if dataroot is None else PUBLISHED))
    if dataroot is None:
        if version != DEFAULT_VERSION:
            raise UserError(f"the synthetic nuScenes has no version {version!r}; give --dataroot or leave it out")
        # Only the address: the scenes are rendered in `NuScenes.prepare`, after all options are known to be good.
        root = _synthetic_folder(config, storage)
    else:
        root = Location.parse(dataroot)
        check_dataroot(root, version)
    return Options(dataroot=str(root), version=version, model=config.name, reading=reading or AS_PUBLISHED)


def workload(options: Options, storage: Location) -> Workload:
    """The workload of a command's options."""
    config = configuration(options.model)
    # Told by the address: options saved with a search hold the dataroot, not how the dataroot was chosen.
    is_synthetic = options.dataroot == str(_synthetic_folder(config, storage))
    return BevFusion(
        name=config.name,
        dataset="nuscenes",
        model=config,
        task=_task(config),
        data=NuScenes(
            dataroot=options.dataroot,
            version=options.version,
            storage=str(storage),
            reading=options.reading,
            inputs=config.inputs,
            whole_scenes=config.tracker is not None,
            reads_points=config.lidar is not None,
        ),
        # Variants of the published model, with other image sizes or backbones, need no entry of their own.
        recipe=RECIPES.get(config.name, RECIPES[PUBLISHED]),
        # The shipped weights were trained on the synthetic scenes alone; on a user's own data they would mislead.
        checkpoint=str(CHECKPOINTS[config.name]) if is_synthetic and config.name in CHECKPOINTS else None,
    )


def _synthetic_folder(config: ModelConfig, storage: Location) -> Location:
    """The synthetic set of a model.

    To learn the map from, a LiDAR needs a ground whose surfaces differ; a tracker needs scenes of some length.
    """
    kind: Kind = "map" if config.inputs.raster is not None else "tracks" if config.tracker is not None else "boxes"
    return synthetic_folder(storage, kind)


def _task(config: ModelConfig) -> Task:
    """The task of a configuration's head, and of its tracker."""
    head = config.head
    if isinstance(head, SegmentationHeadConfig):
        return SegmentationTask(head)
    task: BevDetection
    if isinstance(head, CenterPointHeadConfig):
        task = CenterPointTask(head)
    elif isinstance(head, AnchorHeadConfig):
        task = AnchorTask(head)
    else:
        task = DetectionTask(head)
    return task if config.tracker is None else TrackingTask(task, config.tracker)


def upgraded(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan of a search of earlier releases, which knew nothing but nuScenes, as this release writes it.

    Args:
        plan: JSON of a plan, with a ``source``.
    """
    source = plan["source"]
    options = {name: source[name] for name in ("dataroot", "version", "reading") if name in source}
    # Earlier plans kept the model beside the source; a reference holds both as options of one named workload.
    options["model"] = plan["model"]
    others = {name: value for name, value in plan.items() if name not in ("source", "model", "dataset")}
    # `dataset` is dropped on purpose: a workload names its data set itself, and plans refuse unknown fields.
    reference = {"name": "nusc", "storage": source["storage"], "options": options}
    return {**others, "workload": reference, "validation_part": source["validation_part"]}


def _stages(
    branches: Mapping[str, float], *, fusion: float, learning_rate: float, fusion_learning_rate: float, depth: float
) -> tuple[Stage, ...]:
    """Each branch alone with a decoder and a head of its own, then all together (Liu et al., ICRA 2023).

    Fusion training starts from all branches, and from the fuser, decoder and head of the last branch.

    Args:
        branches: epochs of each branch alone, by its sensor.
        fusion: epochs of all together.
        learning_rate: peak of the branches.
        fusion_learning_rate: peak of fusion training.
        depth: weight of the camera branch's depth loss (Li et al., BEVDepth 2023).
    """
    alone = [
        Stage(
            name=sensor,
            epochs=epochs,
            learning_rate=learning_rate,
            # A branch trains alone by masking the others: the fuser sees zeros, and no layer changes its shape.
            masked=frozenset(branches) - {sensor},
            auxiliary_loss=depth if sensor == "camera" else 0.0,
        )
        for sensor, epochs in branches.items()
    ]
    # As the authors do, whose fusion training loads their LiDAR detector and the camera's backbone.
    starts_from = {**{sensor: sensor for sensor in branches}, "fusion": list(branches)[-1]}
    together = Stage(name="fusion", epochs=fusion, learning_rate=fusion_learning_rate, starts_from=starts_from)
    return (*alone, together)


def _published(stages: tuple[Stage, ...]) -> Recipe:
    """The published training of the models of Liu et al. (ICRA 2023), but for its stages."""
    return Recipe(
        batch_size=32,
        micro_batch_size=2,
        weight_decay=0.01,
        clip_norm=35.0,
        class_balanced=True,
        loader_processes=4,
        augment=True,
        stages=stages,
    )


def _toy(branches: Mapping[str, float], *, fusion: float = 4) -> Recipe:
    """The training of a small model; arguments as of :func:`_stages`."""
    return Recipe(
        batch_size=4,
        micro_batch_size=2,
        weight_decay=0.01,
        clip_norm=10.0,
        stages=_stages(branches, fusion=fusion, learning_rate=3e-3, fusion_learning_rate=1.5e-3, depth=2.0),
    )


_TOY_DETECTOR = _toy({"camera": 8, "lidar": 4})
_SHORT = _toy({"camera": 4, "lidar": 3}, fusion=3)
"""Three fifths of the steps, which keep the training of further toys short."""

# Liang et al., NeurIPS 2022. The authors train fusion with 1e-3 and both branches frozen. Nothing is frozen here, as
# pruning needs, so fusion has the learning rate of BEVFusion-mit, whose branches are trained along.
_PKU = Recipe(
    batch_size=32,
    micro_batch_size=2,
    weight_decay=0.05,
    clip_norm=10.0,
    class_balanced=True,
    loader_processes=4,
    stages=_stages({"camera": 20, "lidar": 20}, fusion=6, learning_rate=1e-3, fusion_learning_rate=2e-4, depth=0.0),
)

RECIPES: dict[str, Recipe] = {
    PUBLISHED: _published(
        _stages({"camera": 20, "lidar": 20}, fusion=6, learning_rate=2e-4, fusion_learning_rate=2e-4, depth=0.0)
    ),
    TOY: _TOY_DETECTOR,
    TOY_RESNET: _TOY_DETECTOR,
    # The authors train both sensors together from the start, here and for maps.
    PUBLISHED_RADAR: _published((Stage(name="fusion", epochs=20, learning_rate=2e-4),)),
    TOY_RADAR: _toy({"camera": 4, "radar": 3}, fusion=3),
    # The LiDAR last: fusion starts from the last branch's fuser, decoder and head.
    TOY_TRIO: _toy({"camera": 4, "radar": 3, "lidar": 3}, fusion=3),
    TOY_TRACKS: _TOY_DETECTOR,
    PUBLISHED_PKU: _PKU,
    DUAL_PKU: _PKU,
    PUBLISHED_PKU_PILLARS: _PKU,
    TOY_PKU: _TOY_DETECTOR,
    TOY_PKU_PILLARS: _SHORT,
    TOY_CENTERPOINT: _TOY_DETECTOR,
    TOY_PILLARS: _TOY_DETECTOR,
    PUBLISHED_MAP: _published((Stage(name="fusion", epochs=20, learning_rate=1e-4),)),
    TOY_MAP: _SHORT,
}
"""Training figures of the named models; a model that has none here trains as the published one."""
