"""How each named model is trained: batch size, optimiser, epochs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from altermoma_ray.errors import UserError


class Recipe(BaseModel):
    """Training figures of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(gt=0)
    """Samples of one optimiser step, over all workers."""
    micro_batch_size: int = Field(gt=0)
    """Samples of one pass while scoring; fixed, so that scores do not depend on the number of workers."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW in pre-training."""
    fusion_learning_rate: float = Field(gt=0)
    """The same in fusion training."""
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    """Gradients are clipped to this norm."""
    camera_epochs: float = Field(gt=0)
    """Pre-training of the camera branch alone."""
    lidar_epochs: float = Field(gt=0)
    """Pre-training of the LiDAR branch alone."""
    fusion_epochs: float = Field(gt=0)
    """Fusion training from both."""
    depth_supervision: float = Field(ge=0)
    """Weight of the depth loss while the camera branch is pre-trained (Li et al., BEVDepth 2023); 0 goes without."""
    class_balanced: bool
    """Class-balanced grouping and sampling (Zhu et al. 2019) instead of every sample once an epoch."""
    loader_processes: int = Field(ge=0)
    """Processes that load data ahead for each worker; 0 loads in the worker itself."""
    augment: bool
    """Picture and 3D augmentation while pre-training; fine-tuning after pruning goes without."""


RECIPES: dict[str, Recipe] = {
    "bevfusion-mit": Recipe(
        batch_size=32,
        micro_batch_size=2,
        learning_rate=2e-4,
        fusion_learning_rate=2e-4,
        weight_decay=0.01,
        clip_norm=35.0,
        camera_epochs=20,
        lidar_epochs=20,
        fusion_epochs=6,
        depth_supervision=0.0,
        class_balanced=True,
        loader_processes=4,
        augment=True,
    ),
    "bevfusion-mit-toy": Recipe(
        batch_size=4,
        micro_batch_size=2,
        learning_rate=3e-3,
        fusion_learning_rate=1.5e-3,
        weight_decay=0.01,
        clip_norm=10.0,
        camera_epochs=8,
        lidar_epochs=4,
        fusion_epochs=4,
        depth_supervision=2.0,
        class_balanced=False,
        loader_processes=0,
        augment=False,
    ),
}


def recipe(model: str) -> Recipe:
    """The recipe of a named model.

    Raises:
        UserError: there is none.
    """
    if model not in RECIPES:
        raise UserError(f"no training recipe for model {model!r}; choose one of {', '.join(sorted(RECIPES))}")
    return RECIPES[model]
