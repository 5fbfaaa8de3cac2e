"""How a model is trained: batch size, optimiser, and the stages in which its unpruned weights come about."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator


class Stage(BaseModel):
    """One stage of training from scratch.

    >>> Stage(name="fusion", epochs=6, learning_rate=2e-4, starts_from={"camera": "camera", "lidar": "lidar"}).masked
    frozenset()
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The stage's checkpoint and progress bar carry the name."""
    epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    # The type of a model's argument `masked`: a stage's sensors go to the forward pass unchanged.
    masked: frozenset[str] = frozenset()
    """The masked modalities, whose parameters are not trained."""
    starts_from: dict[str, str] = {}
    """For each parameter group the earlier stage from whose weights the group starts; other groups start at random."""
    auxiliary_loss: float = Field(default=0.0, ge=0)
    """Weight of the loss from the model's ``auxiliary_loss()`` beside the task's loss; 0 goes without."""

    @field_serializer("masked", when_used="json")
    def _sorted(self, masked: frozenset[str]) -> list[str]:
        # The order of a set differs from process to process, but the text of a recipe is part of hashes.
        return sorted(masked)


class Recipe(BaseModel):
    """Training figures of one workload.

    >>> Recipe(batch_size=4).micro_batch_size
    1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(gt=0)
    """Samples of one optimiser step, over all workers."""
    micro_batch_size: int = Field(default=1, gt=0)
    """Samples of one pass while scoring; fixed, since scores must not depend on the number of workers."""
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    """Gradients are clipped to this norm."""
    class_balanced: bool = False
    """Whether epochs are drawn by the data source's ``balanced_rows`` instead of every sample once."""
    loader_processes: int = Field(default=0, ge=0)
    """Processes to load data ahead for each worker, in fine-tuning and evaluation; 0 loads in the worker itself."""
    augment: bool = False
    """Augmentation while the unpruned model is trained; fine-tuning after pruning goes without."""
    stages: tuple[Stage, ...] = ()
    """Training from scratch, in order; the last stage leaves the unpruned model."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        known: set[str] = set()
        # In order: `known` holds earlier stages alone, so a stage cannot start from itself or from a later stage.
        for stage in self.stages:
            if stage.name in known:
                raise ValueError(f"two stages are called {stage.name!r}; rename one")
            # Found here, not when the stage begins: the earlier stages of a published recipe take days.
            if not known.issuperset(stage.starts_from.values()):
                raise ValueError(f"stage {stage.name!r} starts from stages that do not come before it; reorder them")
            known.add(stage.name)
        return self
