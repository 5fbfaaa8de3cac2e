"""Whole channels: structured pruning, after which a model is smaller and faster on any hardware."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.channels import Bounds, Coupling, choose, cut, cut_entries, keep_masks, kept_entries, trace
from altermoma_ray.pruning.channels.checking import check_couplings
from altermoma_ray.pruning.channels.couplings import composed, kept_channels
from altermoma_ray.pruning.channels.cutting import Entries
from altermoma_ray.pruning.channels.tracing import Run
from altermoma_ray.pruning.granularity.granularity import AnyModule, Granularity, Plan
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.targets import Target

NAME = "channel"


@dataclass(frozen=True)
class Channel(Granularity):
    """Each channel goes or stays with all its weights, in every layer on its way.

    The channels of a model are found by :meth:`bound_to`: the model's own ``channel_couplings()`` tells them, or the
    model is traced. While the model is trained, pruned channels are masked, the weight and bias of their normalisation
    too; :meth:`finalise` removes them.

    >>> layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> channels = Channel().bound_to(layers, lambda model: model(torch.zeros(1, 4)))
    >>> scores = {name: weight.abs() for name, weight in layers.named_parameters() if weight.ndim > 1}
    >>> masks = channels.select(scores, Target(groups={"all": list(scores)}, sparsity=0.5))
    >>> channels.finalise(layers, masks)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )

    Attributes:
        bounds: how narrow a layer may become.
        couplings: of the model bound to; empty before.
        shapes: of the model's parameters and buffers.
        parameters: names of its parameters.
        earlier: the plan of a model pruned before, from the architecture of its configuration to the one bound to.
    """

    bounds: Bounds = field(default_factory=Bounds)
    couplings: tuple[Coupling, ...] = field(default=(), repr=False)
    shapes: Mapping[str, torch.Size] = field(default_factory=dict, repr=False)
    parameters: frozenset[str] = field(default=frozenset(), repr=False)
    earlier: Plan = field(default_factory=dict, repr=False)

    def bound_to(self, model: nn.Module, run: Run, *others: Run) -> Channel:
        """The channels of a model.

        Args:
            model: stays unchanged.
            run: runs a model on a batch; traced where the model has no couplings of its own.
            others: further runs for a traced model without channels to answer as with masked ones.

        Raises:
            UserError: the model cannot be traced, tracing misreads it, or none of its channels can be removed.
        """
        shapes = {name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()}
        # On a copy: tracing needs gradients of all parameters, and a failure leaves hooks behind.
        twin = copy.deepcopy(model).cpu().eval().requires_grad_(True)
        own = getattr(twin, "channel_couplings", None)
        if own is not None:
            couplings = tuple(own())
        else:
            couplings = tuple(trace(twin, run))
            for checked in (run, *others):
                check_couplings(twin, couplings, checked)
        if not couplings:
            raise UserError(
                f"{type(model).__name__} has no channel that can be removed: give the model a method "
                "channel_couplings(), or take granularity 'weight'"
            )
        self.bounds.check(couplings)
        names = frozenset(name for name, _ in model.named_parameters())
        earlier = getattr(model, "channel_plan", {})
        return replace(self, couplings=couplings, shapes=shapes, parameters=names, earlier=earlier)

    def select(self, scores: Mapping[str, Tensor], target: Target, earlier: Masks | None = None) -> Masks:
        """Prune the channels whose weights score lowest on average; see :func:`altermoma_ray.pruning.channels.choose`.

        The sparsity is reached or exceeded, by less than one step of a layer's width.
        """
        kept = choose(scores, self._bound(), target, self.bounds, earlier)
        masks = keep_masks({name: score.shape for name, score in scores.items()}, self.couplings, kept)
        narrowest = [
            coupling.name
            for coupling in self.couplings
            if int(kept[coupling.name].sum()) == self.bounds.narrowest(coupling) < coupling.channels
        ]
        return Masks({name: mask.to(scores[name].device) for name, mask in masks.items()}, narrowest)

    def checked(self, masks: Masks) -> Masks:
        """The same masks, once each channel is known to be kept or pruned with all its weights."""
        shapes = {name: mask.shape for name, mask in masks.items()}
        whole = keep_masks(shapes, self._bound(), kept_channels(self.couplings, masks))
        for name, mask in masks.items():
            if not torch.equal(mask.cpu(), whole[name]):
                raise UserError(
                    f"the masks prune '{name}' in parts of channels: a criterion that prunes in rounds has to choose "
                    "by `problem.granularity.select`; take granularity 'weight' for this criterion"
                )
        return masks

    def held(self, masks: Masks) -> Masks:
        """The masks, with further ones for the biases, normalisations and tables of pruned channels."""
        touched = {part.tensor for coupling in self._bound() for part in coupling.slices} & self.parameters
        shapes = {name: self.shapes[name] for name in sorted(touched | set(masks))}
        held = keep_masks(shapes, self.couplings, kept_channels(self.couplings, masks))
        return Masks(held, masks.floored)

    def plan(self, masks: Masks) -> Plan:
        """The positions kept of every tensor with losses, those of an earlier pruning included."""
        entries = composed(_entries_of(self.earlier), self._kept(masks))
        # JSON has no integers as keys.
        kept = {name: {str(dim): positions for dim, positions in dims.items()} for name, dims in entries.items()}
        return {"granularity": NAME, "kept": kept} if kept else {}

    def finalise(self, model: AnyModule, masks: Masks) -> AnyModule:
        """A copy of the model without the pruned channels."""
        kept = self._kept(masks)
        return cut(model, kept) if kept else model

    def replay(self, model: AnyModule, plan: Plan) -> AnyModule:
        """Cut a model as the plan says.

        Raises:
            UserError: the plan is none of channels, or of another model.
        """
        return cut_entries(model, _entries_of(plan)) if plan else model

    def _kept(self, masks: Masks) -> dict[str, dict[int, list[int]]]:
        """The positions kept of the model bound to."""
        return kept_entries(self.shapes, self._bound(), kept_channels(self.couplings, masks))

    def _bound(self) -> tuple[Coupling, ...]:
        if not self.couplings:
            raise UserError("the channel granularity knows no model yet: call bound_to(model, run) first")
        return self.couplings


def _entries_of(plan: Plan) -> Entries:
    """The positions kept of a plan; none of an empty one."""
    if not plan:
        return {}
    if set(plan) != {"granularity", "kept"} or plan["granularity"] != NAME:
        raise UserError(f"a channel plan has the keys granularity and kept, but got {', '.join(plan)}")
    entries: Entries = plan["kept"]
    return entries
