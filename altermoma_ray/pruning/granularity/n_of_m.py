"""N of every M weights: a pattern for which some hardware has kernels (Mishra et al., *Accelerating Sparse Deep Neural
Networks*, 2021).

Groups of M weights lie along the inputs: along the columns of a linear layer, and along the input channels of a
convolution at each output channel and kernel position. TensorRT reads convolutions so; for its implicit matrix product,
too, input channels lie side by side. A layer takes part if its inputs are a multiple of M. Transposed and sparse
convolutions stay whole, since no kernel uses the pattern there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.granularity.granularity import Granularity, Run, below_all
from altermoma_ray.pruning.groups import prunable_weights
from altermoma_ray.pruning.masks import Masks, is_frozen
from altermoma_ray.pruning.targets import OutOfReach, Target

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class NofM(Granularity):
    """Of every M weights along a layer's inputs N stay; whole layers take the pattern or stay as they are.

    A layer with the pattern has lost ``1 − N/M`` of its weights. The target's sparsity decides how many layers take the
    pattern: first the layers in which the pruned weights have the lowest mean score. A sparsity, or a group's ratio, of
    exactly ``1 − N/M`` stands for all layers whose shapes allow the pattern. Other layers are named in
    :attr:`altermoma_ray.pruning.Masks.floored`.

    >>> layer = nn.Linear(4, 1)
    >>> pattern = NofM().bound_to(layer, lambda model: None)
    >>> scores = {"weight": torch.tensor([[1.0, 4.0, 2.0, 3.0]])}
    >>> pattern.select(scores, Target(groups={"all": ["weight"]}, sparsity=0.5))["weight"].tolist()
    [[False, True, False, True]]

    Attributes:
        n: weights that stay of a group.
        m: weights of a group.
        inputs: dimension of the inputs of every weight whose shape allows the pattern, by name; of the model bound to.
    """

    n: int = 2
    m: int = 4
    inputs: Mapping[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UserError(f"a pattern needs 0 < n < m, but got n={self.n}, m={self.m}")

    def bound_to(self, model: nn.Module, run: Run, *others: Run) -> NofM:
        """The pattern for one model.

        Raises:
            UserError: no layer's shape allows the pattern.
        """
        found = {name: _input_dim(model, name) for name in prunable_weights(model)}
        inputs = {
            name: dim
            for name, dim in found.items()
            if dim is not None and model.get_parameter(name).shape[dim] % self.m == 0
        }
        if not inputs:
            raise UserError(
                f"{type(model).__name__} has no linear layer or convolution whose inputs are a multiple of {self.m}; "
                "take granularity 'weight'"
            )
        return replace(self, inputs=inputs)

    def select(self, scores: Mapping[str, Tensor], target: Target, earlier: Masks | None = None) -> Masks:
        """Give the pattern to layers, the cheapest first, until the sparsity is reached."""
        lowered = below_all(scores, earlier)
        patterned = {
            name: self._pattern(lowered[name], dim)
            for name, dim in self._bound().items()
            if name in scores and not is_frozen(scores[name])
        }
        chosen: set[str] = set()
        parts = [("model", target.sparsity, [name for names in target.groups.values() for name in names])]
        if target.ratios is not None:
            parts = [(f"group {group}", ratio, list(target.groups[group])) for group, ratio in target.ratios.items()]
        done = {name for name in patterned if earlier is not None and not bool(earlier[name].all())}
        for where, sparsity, names in parts:
            price = {name: float(scores[name][~patterned[name]].double().mean()) for name in names if name in patterned}
            # Layers of an earlier round come first, so that none becomes whole again.
            order = sorted(price, key=lambda name: (name not in done, price[name], name))
            sizes = {name: scores[name].numel() for name in order}
            total = sum(scores[name].numel() for name in names)
            chosen |= self._enough(sizes, done, sparsity, total, where)
        keep = {
            name: patterned[name] if name in chosen else torch.ones_like(score, dtype=torch.bool)
            for name, score in scores.items()
        }
        return Masks(keep, [] if target.sparsity == 0 else set(scores) - set(patterned))

    def checked(self, masks: Masks) -> Masks:
        """The same masks, once every layer is known to be whole or to have the pattern."""
        inputs = self._bound()
        for name, mask in masks.items():
            fits = name in inputs and bool((self._groups(mask, inputs[name]).sum(-1) == self.n).all())
            if not fits and not bool(mask.all()):
                raise UserError(
                    f"the masks prune '{name}' in another pattern than {self.n} of {self.m}: a criterion that prunes "
                    "in rounds has to choose by `problem.granularity.select`; take granularity 'weight' for this "
                    "criterion"
                )
        return masks

    def _enough(
        self, sizes: Mapping[str, int], done: Collection[str], sparsity: float, total: int, where: str
    ) -> set[str]:
        """The first layers which reach a sparsity together.

        Args:
            sizes: number of weights of each layer, the layers to take the pattern first in front.
            done: layers with the pattern already.
            sparsity: of the model or group.
            total: number of its weights, other layers' too.
            where: name of the model or group, for the error.
        """
        if sparsity == 1 - self.n / self.m:
            return set(sizes)
        wanted, gone = round(sparsity * total), 0
        chosen: set[str] = set()
        for name, size in sizes.items():
            if gone >= wanted and name not in done:
                break
            chosen.add(name)
            gone += size * (self.m - self.n) // self.m
        if gone < wanted:
            raise OutOfReach(
                f"{self.n} of {self.m} weights in the {where} can go up to a sparsity of {gone / total:.3f}, but "
                f"{sparsity:.3f} is asked for: ask for less, or for {1 - self.n / self.m:g}, which prunes every layer "
                "whose shape allows the pattern"
            )
        return chosen

    def _pattern(self, scores: Tensor, dim: int) -> Tensor:
        """Bool tensor of the scores' shape: the N highest of each group; among equals the first stay."""
        groups = self._groups(scores.detach(), dim)
        order = groups.argsort(dim=-1, descending=True, stable=True)
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., : self.n], True)
        return kept.flatten(-2).movedim(-1, dim)

    def _groups(self, values: Tensor, dim: int) -> Tensor:
        """Values [..., inputs / M, M], with the inputs moved to the end."""
        moved = values.movedim(dim, -1)
        return moved.reshape(*moved.shape[:-1], -1, self.m)

    def _bound(self) -> Mapping[str, int]:
        if not self.inputs:
            raise UserError(f"the pattern {self.n} of {self.m} knows no model yet: call bound_to(model, run) first")
        return self.inputs


def compress(model: nn.Module) -> list[str]:
    """Turn linear layers with 2 of 4 weights into PyTorch's semi-structured format, which a GPU multiplies faster.

    Only for evaluation: the layers can no longer be trained or saved. PyTorch has no kernels for convolutions.

    Example::

        model = model.cuda().half().eval()
        compress(model)  # ['encoders.camera.backbone.features.1.0.mlp.0', ...]

    Args:
        model: in half precision on a CUDA device; changed.

    Returns:
        Names of the layers turned.

    Raises:
        UserError: the model is on another device, or in another precision, than the kernels take.
    """
    weight = next(model.parameters())
    capability = torch.cuda.get_device_capability(weight.device) if weight.is_cuda else (0, 0)
    if capability < (8, 0) or weight.dtype not in (torch.float16, torch.bfloat16):
        raise UserError(
            "kernels for 2 of 4 weights need half precision on a CUDA device of compute capability 8.0 or above, but "
            f"the model is {str(weight.dtype).removeprefix('torch.')} on {weight.device}; measure it without them"
        )
    turned = []
    for name, layer in model.named_modules():
        if type(layer) is not nn.Linear or not _is_two_of_four(layer.weight):
            continue
        try:
            packed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        except (RuntimeError, ValueError):  # the format has least sizes of its own
            continue
        layer.weight = nn.Parameter(packed, requires_grad=False)
        turned.append(name)
    return turned


def _is_two_of_four(weight: Tensor) -> bool:
    return weight.shape[1] % 4 == 0 and bool((weight.reshape(-1, 4).ne(0).sum(-1) <= 2).all())


def _input_dim(model: nn.Module, name: str) -> int | None:
    """The dimension of a weight's inputs; None where no kernel uses a pattern."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, _CONVOLUTIONS):
        return 1
    # Linear layers, and the stacked projections of attention.
    return 1 if model.get_parameter(name).ndim == 2 else None
