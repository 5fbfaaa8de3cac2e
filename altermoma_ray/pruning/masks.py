"""Masks: which weights stay, with exact counts, and how they hold through training.

Weights are pruned in one total order: by score, then by layer name, then by index. So ties are decided the same way
everywhere, and a higher sparsity prunes a superset. A layer is one weight tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.coverage import effective_weight
from altermoma_ray.pruning.groups import check_groups
from altermoma_ray.pruning.ratios import check_ratio

logger = logging.getLogger(__name__)


class Masks(Mapping[str, Tensor]):
    """Boolean tensors by weight name, True where the weight is kept.

    Attributes:
        floored: layers at their minimum of weights, which would have lost more without one.

    >>> masks = Masks({"camera": torch.tensor([True, False]), "lidar": torch.tensor([True, True])})
    >>> masks.kept(), masks.sparsity(), masks.sparsity_by_layer()
    (3, 0.25, {'camera': 0.5, 'lidar': 0.0})
    """

    def __init__(self, keep: Mapping[str, Tensor], floored: Iterable[str] = ()) -> None:
        self._keep = dict(keep)
        self.floored = tuple(sorted(floored))
        # Counted once: on a GPU each sum waits for the device.
        self._kept = {name: int(mask.count_nonzero()) for name, mask in self._keep.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._keep[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def kept(self, names: Iterable[str] | None = None) -> int:
        """Number of weights kept, in all layers or in the named ones."""
        return sum(self._kept[name] for name in (self if names is None else names))

    def sparsity(self, names: Iterable[str] | None = None) -> float:
        """Fraction of weights pruned, in all layers or in the named ones."""
        layers = list(self if names is None else names)
        return 1 - self.kept(layers) / sum(self[name].numel() for name in layers)

    def sparsity_by_group(self, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Fraction of weights pruned in each parameter group."""
        return {group: self.sparsity(names) for group, names in groups.items()}

    def sparsity_by_layer(self) -> dict[str, float]:
        """Fraction of weights pruned in each layer."""
        return {name: self.sparsity([name]) for name in self}

    def to_tensors(self) -> dict[str, Tensor]:
        """Flat tensors for safetensors: per layer its shape (int64) and its mask, eight weights to the byte (uint8)."""
        tensors: dict[str, Tensor] = {}
        for name, mask in self.items():
            # The last byte is padded with zeros: only the shape tells where the mask ends.
            tensors[f"shape/{name}"] = torch.tensor(mask.shape)
            tensors[f"keep/{name}"] = torch.from_numpy(np.packbits(mask.cpu().numpy()))
        tensors.update({f"floored/{name}": torch.ones(1, dtype=torch.uint8) for name in self.floored})
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Masks:
        """Inverse of :meth:`to_tensors`."""
        keep: dict[str, Tensor] = {}
        for key, shape in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "shape":
                size = int(shape.prod())
                bits = np.unpackbits(tensors[f"keep/{name}"].numpy(), count=size)
                keep[name] = torch.from_numpy(bits).bool().view(*shape.tolist())
        return cls(keep, [key.partition("/")[2] for key in tensors if key.startswith("floored/")])


def global_masks(scores: Mapping[str, Tensor], sparsity: float, *, floor: int = 1) -> Masks:
    """Prune the ``round(sparsity · n)`` weights of lowest score, under one threshold for all layers.

    Each layer keeps at least its ``floor`` highest weights. As many of the next lowest go elsewhere, and the count
    stays exact unless the floors alone exceed the weights to keep.

    Args:
        scores: finite scores by weight name; a layer whose scores are all infinite is frozen: kept whole, and not
            counted in n.
        sparsity: fraction to prune, in [0, 1).
        floor: weights that every layer keeps.

    Returns:
        The masks, on the scores' device.

    Raises:
        UserError: the sparsity is not in [0, 1), the floor is negative, or there are no scores.
        ValueError: a score is not finite; the message names its layer.
    """
    check_ratio("sparsity", sparsity)
    if floor < 0 or not scores:
        raise UserError(f"masks need floor >= 0 and at least one layer, but got floor={floor}, {len(scores)} layers")
    for name, score in scores.items():
        # NaN compares as neither lower nor higher: a threshold would silently keep the weight.
        if not (bool(torch.isfinite(score).all()) or is_frozen(score)):
            raise ValueError(f"the scores of layer '{name}' are not finite: no order can be made of them")
    # By name, not by the order of the mapping: equal scores are then decided alike everywhere.
    names = sorted(name for name, score in scores.items() if not is_frozen(score))
    if not names:
        return Masks({name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()})
    sizes = [scores[name].numel() for name in names]
    minima = [min(floor, size) for size in sizes]
    flat = torch.cat([scores[name].detach().flatten() for name in names])
    # One rounding for all layers together; rounding layer by layer would miss the total.
    wanted = round(sparsity * flat.numel())

    # The highest weights of each layer leave the race at any sparsity: only then are masks nested.
    guarded = flat.clone()
    for layer, minimum in zip(guarded.split_with_sizes(sizes), minima, strict=True):
        _raise_highest(layer, minimum)
    pruned = _lowest(guarded, min(wanted, flat.numel() - sum(minima)))

    parts = pruned.split_with_sizes(sizes)
    # The floor can only have acted where a layer is at its minimum. Otherwise the second selection is spared.
    at_floor = [
        size - int(part.count_nonzero()) == minimum for size, part, minimum in zip(sizes, parts, minima, strict=True)
    ]
    floored: list[str] = []
    if floor and any(at_floor):
        # The same selection without a floor shows the layers which would have lost more.
        unguarded = _lowest(flat, wanted).split_with_sizes(sizes)
        losses = [int(part.count_nonzero()) for part in unguarded]
        floored = [n for n, loss, size, least in zip(names, losses, sizes, minima, strict=True) if loss > size - least]
    if floored:
        logger.info("the floor of %d weights acted in %d layers: %s", floor, len(floored), ", ".join(floored))
    keep = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    keep |= {name: ~part.view(scores[name].shape) for name, part in zip(names, parts, strict=True)}
    # In the order of the scores again: masks and scores are walked side by side.
    return Masks({name: keep[name] for name in scores}, floored)


def is_frozen(score: Tensor) -> bool:
    """Whether a layer is never pruned, because all its scores are infinite."""
    return score.numel() > 0 and bool((score == torch.inf).all())


def group_masks(
    scores: Mapping[str, Tensor],
    groups: Mapping[str, Sequence[str]],
    ratios: Mapping[str, float],
    *,
    floor: int = 1,
) -> Masks:
    """Prune each parameter group by its own ratio, under one threshold within the group.

    Args:
        scores: finite scores by weight name.
        groups: weight names by group; together they are the weights scored.
        ratios: fraction to prune of each group, in [0, 1).
        floor: weights that every layer keeps.

    Returns:
        The masks, on the scores' device.

    Raises:
        UserError: as :func:`global_masks`, or groups, scores and ratios do not fit.
        ValueError: a score is not finite; the message names its layer.
    """
    check_groups(groups, scores)
    if groups.keys() != ratios.keys():
        raise UserError(f"ratios are needed for the groups {sorted(groups)}, but got them for {sorted(ratios)}")
    for group, ratio in ratios.items():
        check_ratio(group, ratio)
    parts = [
        global_masks({name: scores[name] for name in names}, ratios[group], floor=floor)
        for group, names in groups.items()
    ]
    # Groups come in their own order; the masks return to the order of the scores.
    keep = {name: mask for part in parts for name, mask in part.items()}
    return Masks({name: keep[name] for name in scores}, [name for part in parts for name in part.floored])


def count_sparsity(model: nn.Module, names: Iterable[str]) -> float:
    """Fraction of exact zeros among the named weights, counted from the weights the model computes with."""
    weights = [effective_weight(model, name) for name in names]
    # Counted in the model, not in the masks: a weight set to zero by training counts too.
    zeros = sum(weight.numel() - int(torch.count_nonzero(weight)) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def _lowest(values: Tensor, count: int) -> Tensor:
    """Mark the ``count`` lowest of a vector; among equals the first go first."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    # Not topk or plain argsort: neither promises an order among equals, and ties would differ between devices.
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        threshold = values.new_tensor(np.partition(values.numpy(), count - 1)[count - 1])  # in half of PyTorch's time
    else:
        threshold = values.kthvalue(count).values
    marked = values < threshold
    ties = (values == threshold).nonzero().squeeze(1)
    marked[ties[: count - int(marked.count_nonzero())]] = True
    return marked


def _raise_highest(values: Tensor, count: int) -> None:
    """Set the ``count`` highest of a vector to infinity; among equals the last ones."""
    if count == 1:  # the common case, in one pass
        values[-1 - values.flip(0).argmax()] = torch.inf
    else:
        values[~_lowest(values, values.numel() - count)] = torch.inf
