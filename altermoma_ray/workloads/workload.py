"""A workload: the model, the task and the data of a pruning search in one object."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, model_validator
from torch import nn
from typing_extensions import get_protocol_members

from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.weights.plain import is_ours, load_plain
from altermoma_ray.pruning import group_weights, prunable_weights
from altermoma_ray.storage import Location
from altermoma_ray.workloads.protocols import DataSource, FusionModel, Task
from altermoma_ray.workloads.recipe import Recipe

FUSION = "fusion"
"""The group of parameters that all modalities share."""


class Workload(BaseModel):
    """A model to prune, its task, its data and its training.

    Put a workload at the top level of a module of your own and search the workload by its reference::

        WORKLOAD = Workload(
            name="two-branch", model=TwoBranch, task=Regression(), data=Generated(), recipe=Recipe(batch_size=8)
        )

        python -m altermoma_ray.search my_package.fusion:WORKLOAD
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    """Name of the model; together with ``dataset`` the name of the experiment in MLflow."""
    dataset: str = "own"
    """Name of the data set."""
    model: Any
    """Makes the model: a configuration with a method ``build()``, or a function or class without arguments."""
    task: Any
    """The task (:class:`altermoma_ray.workloads.protocols.Task`)."""
    data: Any
    """The data source (:class:`altermoma_ray.workloads.protocols.DataSource`)."""
    recipe: Recipe
    checkpoint: str | None = None
    """Path or URI of the unpruned weights, as ``torch.save(model.state_dict(), file)``, safetensors or we wrote
    them. None takes the model as made, without further weights."""

    @model_validator(mode="after")
    def _check_parts(self) -> Workload:
        for name, protocol in (("task", Task), ("data", DataSource)):
            part = getattr(self, name)
            # Compared by hand: `isinstance` with a protocol says no more than False; the error has to name a member.
            missing = sorted(member for member in get_protocol_members(protocol) if not hasattr(part, member))
            if missing:
                raise ValueError(f"`{name}`, a {type(part).__name__}, has no `{missing[0]}`")
        return self

    # pydantic leaves cached properties out of comparison and saving, so a frozen workload may keep the answer.
    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """The model's modalities, in the order in which they are masked; builds a model to ask."""
        return modalities_of(self.build())

    def build(self, configuration: str | None = None) -> nn.Module:
        """A new model.

        Args:
            configuration: JSON of another configuration than the workload's own, from a checkpoint's header.

        Raises:
            UserError: the maker gives no fusion model.
        """
        # A pruned or released checkpoint brings its own configuration; only a class of pydantic can be made from JSON.
        maker = self.model if configuration is None else type(self.model).model_validate_json(configuration)
        # A copy: a maker of the user's own may give the same module every time, and models here are changed.
        model = maker.build() if hasattr(maker, "build") else copy.deepcopy(maker())
        # Asked here, where a user's model first exists: a missing method would else show as a worker's traceback.
        for attribute in ("state_dict", "modalities", "group_of"):
            if not hasattr(model, attribute):
                raise UserError(
                    f"the model of {self.name}, a {type(model).__name__}, has no `{attribute}`; a fusion model is a "
                    "torch.nn.Module with `modalities` and `group_of`"
                )
        return cast(nn.Module, model)

    def task_for(self, model: nn.Module) -> Task:
        """The task of a model."""
        return cast(Task, self.task)

    def source(self) -> DataSource:
        """The data source, with its type."""
        return cast(DataSource, self.data)

    def load(self, location: Location) -> tuple[nn.Module, dict[str, Any]]:
        """A model from a checkpoint of this project, on the CPU in evaluation mode, and the checkpoint's metadata.

        Raises:
            UserError: the file is missing or damaged, or does not fit the model.
        """
        # The checkpoint holds no class: the workload makes the module, and the file only fills it.
        return load_checkpoint(location, self.build)

    def unpruned(self, checkpoint: str | None = None) -> nn.Module:
        """The unpruned model.

        Args:
            checkpoint: path or URI of its weights, a file of ours or one of tensors under the model's names; None takes
                the workload's own.

        Raises:
            UserError: there are no weights, or they do not fit the model.
        """
        place = checkpoint or self.checkpoint
        model = self.build().eval()
        if place is None:
            # A model whose maker loads its own weights needs no file.
            return model
        location = Location.parse(place)
        # A file of ours may hold a pruned architecture, which must be replayed; a plain state dict must fit as it is.
        if is_ours(location):
            return self.load(location)[0]
        load_plain(model, location)
        return model

    def left_out(self) -> Mapping[str, int]:
        """How many records of the user's data are not used, by kind; empty where all are."""
        # Optional, hence no member of the protocol: a data set without faults has nothing to leave out.
        count = getattr(self.data, "left_out", None)
        return {} if count is None else count()


def modalities_of(model: nn.Module) -> tuple[str, ...]:
    """The modalities of a fusion model, in the order in which they are masked."""
    return tuple(cast(FusionModel, model).modalities)


def group_function(model: nn.Module) -> Callable[[str], str]:
    """The function from a parameter's name to its group, of a fusion model."""
    return cast(FusionModel, model).group_of


def groups_of(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Names of a fusion model's prunable weights by parameter group.

    Args:
        model: asked for the group of each of its parameters.
        names: of the weights; None takes all prunable ones.

    Raises:
        UserError: the group of a weight is neither a modality nor ``fusion``.
    """
    weights = list(prunable_weights(model)) if names is None else list(names)
    groups, known = group_weights(weights, group_function(model)), (*modalities_of(model), FUSION)
    # Before any scoring: a misspelt group would get a pruning ratio that no space offers, or none.
    for group, members in groups.items():
        if group not in known:
            raise UserError(
                f"group_of('{members[0]}') is '{group}', but the model's groups are {', '.join(known)}; mend `group_of`"
            )
    return groups


def sizes_of(model: nn.Module) -> dict[str, int]:
    """How many prunable weights each parameter group of a fusion model has."""
    weights = prunable_weights(model)
    return {group: sum(weights[name].numel() for name in names) for group, names in groups_of(model).items()}


def flow_of(model: nn.Module, batch: Any) -> Callable[[nn.Module], Any] | None:
    """The model's ``flow(batch)`` for SynFlow; None where the model offers none."""
    flow = getattr(model, "flow", None)
    return None if flow is None else flow(batch)


def digest_of(model: nn.Module) -> str:
    """Hash of a model's configuration and tensors, under which its checkpoint and indicators are kept."""
    config = getattr(model, "config", None)
    described = config.model_dump_json() if isinstance(config, BaseModel) else type(model).__qualname__
    digest = hashlib.sha256(described.encode())
    # Tensors enter as bytes: only the plan tells two shapes of the same bytes apart.
    if plan := getattr(model, "channel_plan", None):
        digest.update(json.dumps(plan).encode())
    # Sorted: the order of modules in a class may change without changing the model, and indicators would be lost.
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        # Raw bytes: printed numbers would be rounded, and two checkpoints could share their stored indicators.
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = ["Workload", "digest_of", "flow_of", "group_function", "groups_of", "modalities_of", "sizes_of"]
