"""The interface of all granularities: from scores to masks of whole units, and from masks to the model that is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Plan = Mapping[str, Any]
"""What changes a model's architecture, as JSON can hold it; empty where nothing does. Anything else has the key
``granularity``, the name of the granularity that made the plan."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How many weights a pruned model has left.

    >>> Cost(weights_left=25, weights_total=100).sparsity
    0.75

    Attributes:
        weights_left: prunable weights that are kept.
        weights_total: prunable weights of the unpruned model.
    """

    weights_left: int
    weights_total: int

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that is gone."""
        return 1 - self.weights_left / self.weights_total


class Granularity(ABC):
    """Decides which weights stay or go together: single weights, whole channels, or some out of every few.

    A trial of every granularity goes the same way: :meth:`select` makes masks, a
    :class:`altermoma_ray.pruning.MaskHolder` keeps masked weights at zero while the model is trained, and
    :meth:`finalise` makes the model that is kept. Implementations are frozen dataclasses of their parameters.

    >>> import torch
    >>> from altermoma_ray.pruning.granularity import GRANULARITIES
    >>> granularity = GRANULARITIES["weight"]
    >>> scores = {"fusion.weight": torch.tensor([[1.0, 4.0], [2.0, 3.0]])}
    >>> masks = granularity.select(scores, Target(groups={"fusion": ["fusion.weight"]}, sparsity=0.5))
    >>> masks["fusion.weight"].tolist()
    [[False, True], [False, True]]
    >>> granularity.cost(masks)
    Cost(weights_left=2, weights_total=4)
    >>> granularity.plan(masks)
    {}
    """

    def bound_to(self, model: nn.Module, run: Callable[[nn.Module], Any]) -> Granularity:
        """The granularity for one model, whose units it may have to find first.

        Args:
            model: to be pruned; it is left as it was found.
            run: runs a model on a batch, where that is needed.

        Raises:
            UserError: the model has no such units.
        """
        return self

    @abstractmethod
    def select(self, scores: Mapping[str, Tensor], target: Target) -> Masks:
        """Choose the units to prune.

        Args:
            scores: of every prunable weight, by name; units of low scores are pruned first.
            target: how much to prune, and where.

        Returns:
            Masks of all scored weights, in which every unit is kept or pruned as a whole.

        Raises:
            UserError: the target cannot be met with these scores.
        """

    def held(self, masks: Masks) -> Masks:
        """The masks to hold while the model is trained: these, and those of parameters that go with their units."""
        return masks

    def plan(self, masks: Masks) -> Plan:
        """What :meth:`finalise` changes about the architecture of a model with these masks; see :data:`Plan`."""
        return {}

    def finalise(self, model: AnyModule, masks: Masks) -> AnyModule:
        """The model to keep once training has ended.

        Args:
            model: pruned and trained; it is left as it was found.
            masks: that were held.

        Returns:
            A model that computes the same, of the architecture that :meth:`plan` says. The model itself where nothing
            is to be changed.
        """
        return model

    def replay(self, model: AnyModule, plan: Plan) -> AnyModule:
        """Give an unpruned model the architecture of a finalised one, whose weights can then be read into it.

        Args:
            model: of the architecture before pruning; it may be changed.
            plan: what :meth:`plan` returned.

        Raises:
            UserError: the plan is none of this granularity.
        """
        if plan:
            raise UserError(
                f"granularity {type(self).__name__} changes no architecture, but got a plan with {', '.join(plan)}"
            )
        return model

    def cost(self, masks: Masks) -> Cost:
        """The weights that are left of a model with these masks."""
        return Cost(weights_left=masks.kept(), weights_total=sum(mask.numel() for mask in masks.values()))
