"""The interface of all granularities: from scores to masks of whole units, and from masks to the final model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Run = Callable[[nn.Module], Any]
"""Runs a model on a batch."""
Plan = Mapping[str, Any]
"""The changes of a model's architecture, in JSON's types; empty where there are none. Any other plan has the key
``granularity``, the name of its granularity."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How many weights a pruned model has left.

    >>> Cost(weights_left=25, weights_total=100).sparsity
    0.75

    Attributes:
        weights_left: prunable weights kept.
        weights_total: prunable weights of the unpruned model.
    """

    weights_left: int
    weights_total: int

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights gone."""
        return 1 - self.weights_left / self.weights_total


class Granularity(ABC):
    """Decides which weights stay or go together: single weights, whole channels, or some out of every few.

    A trial of every granularity goes the same way: :meth:`select` makes masks, a
    :class:`altermoma_ray.pruning.MaskHolder` keeps masked weights at zero while the model is trained, and
    :meth:`finalise` makes the final model. Implementations are frozen dataclasses of their parameters.

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

    def bound_to(self, model: nn.Module, run: Run, *others: Run) -> Granularity:
        """The granularity for one model, with the model's units found first where necessary.

        Args:
            model: to be pruned; stays unchanged.
            run: runs a model on a batch, where tracing needs a run.
            others: further runs, with a modality masked for example.

        Raises:
            UserError: the model has no units of this kind.
        """
        return self

    @abstractmethod
    def select(self, scores: Mapping[str, Tensor], target: Target, earlier: Masks | None = None) -> Masks:
        """Choose the units to prune.

        Args:
            scores: of every prunable weight, by name; units of low scores are pruned first.
            target: how much to prune, and where.
            earlier: masks of a lower sparsity, for criteria which prune in rounds. Their pruned units stay pruned, and
                a unit is scored by its remaining weights alone.

        Returns:
            Masks of all scored weights, in which every unit is kept or pruned as a whole.

        Raises:
            UserError: the target cannot be met with these scores.
        """

    def checked(self, masks: Masks) -> Masks:
        """The same masks, of a criterion which prunes in rounds, once they are known to prune whole units.

        Raises:
            UserError: a unit is pruned in part.
        """
        return masks

    def held(self, masks: Masks) -> Masks:
        """The masks to hold while the model is trained: the given ones, with further parameters of the same units."""
        return masks

    def plan(self, masks: Masks) -> Plan:
        """The changes :meth:`finalise` makes to the architecture of a model with these masks; see :data:`Plan`."""
        return {}

    def finalise(self, model: AnyModule, masks: Masks) -> AnyModule:
        """The model to keep once training has ended.

        Args:
            model: pruned and trained; stays unchanged.
            masks: the masks held in training.

        Returns:
            A model with the same outputs, of the architecture of :meth:`plan`. The model itself where nothing
            changes.
        """
        return model

    def replay(self, model: AnyModule, plan: Plan) -> AnyModule:
        """Give an unpruned model the architecture of a finalised one, whose weights can then be read into it.

        Args:
            model: of the architecture before pruning; may be changed.
            plan: a result of :meth:`plan`.

        Raises:
            UserError: the plan is none of this granularity.
        """
        # An unchanged architecture has an empty plan: any other was made by another granularity, or damaged.
        if plan:
            raise UserError(
                f"granularity {type(self).__name__} changes no architecture, but got a plan with {', '.join(plan)}"
            )
        return model

    def cost(self, masks: Masks) -> Cost:
        """The weights left of a model with these masks."""
        return Cost(weights_left=masks.kept(), weights_total=sum(mask.numel() for mask in masks.values()))


def below_all(scores: Mapping[str, Tensor], earlier: Masks | None) -> dict[str, Tensor]:
    """Scores with the lowest number of their type wherever earlier masks have pruned.

    >>> scores = {"weight": torch.tensor([3.0, -1.0])}
    >>> below_all(scores, Masks({"weight": torch.tensor([False, True])}))["weight"].argmin()
    tensor(0)

    Args:
        scores: finite, by weight name.
        earlier: masks of the same weights; None leaves the scores as they are.
    """
    if earlier is None:
        return dict(scores)
    return {
        name: score.detach().masked_fill(~earlier[name].to(score.device), torch.finfo(score.dtype).min)
        for name, score in scores.items()
    }
