"""AVOD-FPN on KITTI: ``search kitti``, on the user's data set or on a synthetic one that is made on first use."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict
from torch import nn

from altermoma_ray.data.kitti.source import Kitti, synthetic_kitti_folder
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.errors import UserError
from altermoma_ray.models.avod import Avod
from altermoma_ray.models.configurations.avod import AvodConfig
from altermoma_ray.models.configurations.avod_fpn import (
    AVOD_CONFIGURATIONS,
    AVOD_FPN_CARS,
    AVOD_FPN_PEOPLE,
    AVOD_FPN_TOY,
    avod_configuration,
)
from altermoma_ray.models.configurations.families import check_family
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.tasks.kitti.task import KittiTask
from altermoma_ray.workloads.protocols import Task
from altermoma_ray.workloads.recipe import Recipe, Stage
from altermoma_ray.workloads.workload import Workload

SHIPPED = Path(__file__).parents[1] / "models" / "checkpoints" / f"{AVOD_FPN_TOY.name}.safetensors"
"""The toy's checkpoint, which comes with the project, for the synthetic set."""
TRAINING_FRAMES = 3_712
"""Frames of the usual training split."""
STEPS = 120_000
"""Published steps, of one frame each."""


class Options(BaseModel):
    """The data set and the model that a command asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataroot: Place
    """Local path or ``pyarrow.fs`` URI of KITTI's object data, the folder of ``training``."""
    model: str
    """Named configuration of the model."""


# At the module's top level, since workers and MLflow unpickle objects by the names of their classes.
class AvodOnKitti(Workload):
    """An AVOD-FPN detector."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return cast(AvodConfig, self.model).modalities

    def build(self, configuration: str | None = None) -> nn.Module:
        """A new model, of a checkpoint's configuration where one is given."""
        if configuration is not None:
            check_family(configuration, AVOD_CONFIGURATIONS, "the checkpoint")
        return super().build(configuration)

    def task_for(self, model: nn.Module) -> Task:
        """The task of a model's own configuration: a checkpoint may have learned other types."""
        return KittiTask(cast(Avod, model).config)

    def unpruned(self, checkpoint: str | None = None) -> nn.Module:
        """The model that is to be pruned.

        Raises:
            UserError: there are no weights, or they do not fit the model.
        """
        # A randomly initialised model is refused: its indicators rank noise, and no figure of a search would tell.
        if checkpoint is None and self.checkpoint is None:
            raise UserError(
                f"no weights for {self.name}: give --checkpoint FILE, "
                f"or train one with python -m altermoma_ray.train kitti --model {self.name}"
            )
        model = super().unpruned(checkpoint)
        found = cast(Avod, model).config.name
        if found != self.name and found in AVOD_CONFIGURATIONS:
            raise UserError(f"{checkpoint} is of model {found!r}, not {self.name!r}; choose that model")
        return model


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
        dataroot: path or URI of KITTI; None for the synthetic toy set.
        version: not for KITTI, which has one.
        model: named configuration; None for the toy on the synthetic set, else the published model of cars.
        reading: not for KITTI.

    Raises:
        UserError: the model is unknown, an option is not for KITTI, or storage cannot be written.
    """
    # Checked first: each later step writes to storage, and hours of scoring would be lost on a read-only folder.
    storage.check_writable()
    if version is not None:
        raise UserError(f"KITTI has no versions, but got --version {version}; leave the option out")
    if reading is not None and reading != AS_PUBLISHED:
        given = next(name for name, value in dict(reading).items() if value != getattr(AS_PUBLISHED, name))
        raise UserError(f"--{given.replace('_', '-')} is about nuScenes and does not go with kitti; leave it out")
    config = avod_configuration(model or (AVOD_FPN_TOY if dataroot is None else AVOD_FPN_CARS).name)
    # Only the address: the frames are made in `Kitti.prepare`, after all options are known to be good.
    root = synthetic_kitti_folder(storage) if dataroot is None else Location.parse(dataroot)
    return Options(dataroot=str(root), model=config.name)


def workload(options: Options, storage: Location) -> Workload:
    """The workload of a command's options."""
    config = avod_configuration(options.model)
    is_synthetic = options.dataroot == str(synthetic_kitti_folder(storage))
    return AvodOnKitti(
        name=config.name,
        dataset="kitti",
        model=config,
        task=KittiTask(config),
        data=Kitti(dataroot=options.dataroot, storage=str(storage), inputs=config.inputs),
        recipe=RECIPES[config.name],
        checkpoint=str(SHIPPED) if is_synthetic and config == AVOD_FPN_TOY else None,
    )


def _published(*, augment: bool) -> Recipe:
    """The published training, as near as a recipe allows.

    Adam with 1e-4, gradients clipped to a norm of 1, one frame a step. The published learning rate falls by a fifth
    every 30,000 steps; here it rises over the first tenth of training and then falls as a cosine. The published
    configuration names an L2 weight for each layer, which the published training adds to no loss: there is no decay.

    Args:
        augment: whether frames are flipped and their colours varied, as for cars.
    """
    return Recipe(
        batch_size=1,
        micro_batch_size=1,
        weight_decay=0.0,
        clip_norm=1.0,
        loader_processes=4,
        augment=augment,
        stages=(Stage(name="fusion", epochs=STEPS / TRAINING_FRAMES, learning_rate=1e-4),),
    )


_TOY = Recipe(
    batch_size=2,
    micro_batch_size=2,
    weight_decay=0.01,
    clip_norm=10.0,
    augment=True,
    stages=(
        # A view trains alone by masking the other: the mean is then over one view, and no layer changes its shape.
        Stage(name="camera", epochs=6, learning_rate=2e-3, masked=frozenset({"lidar"})),
        Stage(name="lidar", epochs=6, learning_rate=2e-3, masked=frozenset({"camera"})),
        Stage(
            name="fusion",
            epochs=8,
            learning_rate=1e-3,
            starts_from={"camera": "camera", "lidar": "lidar", "fusion": "lidar"},
        ),
    ),
)

RECIPES: dict[str, Recipe] = {
    AVOD_FPN_CARS.name: _published(augment=True),
    AVOD_FPN_PEOPLE.name: _published(augment=False),
    AVOD_FPN_TOY.name: _TOY,
}
"""Training figures of the named models."""
