"""The parameters of a model within the reach of pruning, and the others with the reason for leaving them out.

>>> from torch import nn
>>> class Model(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
...         self.matrix = nn.Parameter(torch.ones(2, 4))
>>> found = coverage(Model())
>>> list(found.weights), found.prunable, found.total
(['layer.parametrizations.weight.original1'], 16, 32)
>>> found.notice()
"1 parameter is not pruned, 8 of the model's 32 weights: 'matrix' (no weight of a known layer)"
>>> found.sparsity_of_all(0.75)
0.375
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from altermoma_ray.pruning.model import check_values

_WEIGHT_NAME = re.compile(r"(in_proj_|[qkv]_proj_)?weight|weight_[ih]h(_l\d+(_reverse)?)?|weight_hr_l\d+(_reverse)?")
_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
# By class name: custom norms and embeddings (frozen, synchronised, channel-first, ...) rarely share a base class.
_NORM = re.compile(r"Norm([123]d)?$")
_EMBEDDING = re.compile(r"Embedding(Bag)?$")
_LAYER_NAME = re.compile(r"Linear|Conv|Dense")
_POSITION = re.compile(r"pos(ition)?([_.]|$|al|_?emb)|bias")

BIAS, NORM, EMBEDDING, VECTOR = "bias or position table", "normalisation", "embedding", "a vector"
RAW, FROZEN, COMPLEX = "no weight of a known layer", "frozen: requires_grad=False", "complex or whole numbers"
PARAMETRISED = "its parametrisation does not keep zeros: remove it before pruning"
_USUAL = frozenset({BIAS, NORM, EMBEDDING, VECTOR})
"""Left out by every pruning method, the paper's too; no one need be told."""


@dataclass(frozen=True)
class LeftOut:
    """A parameter beyond the reach of pruning.

    Attributes:
        name: as in ``model.named_parameters()``.
        weights: number of its elements.
        reason: why the parameter is left out.

    >>> coverage(nn.Linear(4, 2)).left_out
    (LeftOut(name='bias', weights=2, reason='bias or position table'),)
    """

    name: str
    weights: int
    reason: str

    @property
    def is_usual(self) -> bool:
        """Whether the method never prunes its kind: biases, norms, embeddings, position tables and other vectors."""
        return self.reason in _USUAL


@dataclass(frozen=True)
class Coverage:
    """The prunable parameters of a model, and all others.

    Attributes:
        weights: the prunable parameters by name, in the model's order.
        left_out: all others.

    >>> found = coverage(nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)))
    >>> list(found.weights), [part.name for part in found.left_out]
    (['0.weight'], ['0.bias', '1.weight', '1.bias'])
    """

    weights: dict[str, nn.Parameter]
    left_out: tuple[LeftOut, ...]

    @property
    def prunable(self) -> int:
        """Number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def total(self) -> int:
        """Number of weights in all parameters, prunable or not."""
        return self.prunable + sum(part.weights for part in self.left_out)

    @property
    def unusual(self) -> tuple[LeftOut, ...]:
        """The parameters left out against a user's likely expectation."""
        return tuple(part for part in self.left_out if not part.is_usual)

    def sparsity_of_all(self, sparsity: float) -> float:
        """A sparsity of the prunable weights as a fraction of all weights, prunable or not."""
        return sparsity * self.prunable / self.total if self.total else 0.0

    def notice(self) -> str:
        """One line on the parameters left out unexpectedly: names, counts and reasons; empty where there are none."""
        parts = self.unusual
        if not parts:
            return ""
        count = sum(part.weights for part in parts)
        named = ", ".join(f"'{part.name}' ({part.reason})" for part in parts[:3])
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        which = f"{len(parts)} parameter{' is' if len(parts) == 1 else 's are'}"
        return f"{which} not pruned, {count} of the model's {self.total} weights: {named}{more}"


def coverage(model: nn.Module) -> Coverage:
    """Sort a model's parameters into prunable ones and others, with a reason for each of the others.

    A parameter with ``requires_grad=False`` is left out where other prunable parameters are trained. In a model frozen
    as a whole the flags tell nothing.

    Raises:
        UserError: a parameter has no values yet (lazy, or on the meta device in parts).
    """
    check_values(model)
    chosen: set[nn.Parameter] = set()
    reasons: dict[nn.Parameter, str] = {}
    for module, name, parameter in _owned(model):
        reason = _reason(module, name, parameter)
        if reason is None:
            chosen.add(parameter)
        # A norm or an embedding outranks any other reason of a shared parameter, in whatever order modules come.
        elif reason in (NORM, EMBEDDING) or parameter not in reasons:
            reasons[parameter] = reason
    # A layer's weight may be shared with another module. It is pruned, unless the other is a norm or an embedding.
    chosen -= {parameter for parameter, reason in reasons.items() if reason in (NORM, EMBEDDING)}
    reasons = {parameter: reason for parameter, reason in reasons.items() if parameter not in chosen}
    if any(parameter.requires_grad for parameter in chosen):
        reasons |= {parameter: FROZEN for parameter in chosen if not parameter.requires_grad}
    # named_parameters names a shared parameter once, by its first module: so do the names of all scores.
    named = dict(model.named_parameters())
    return Coverage(
        weights={name: parameter for name, parameter in named.items() if parameter not in reasons},
        left_out=tuple(LeftOut(n, p.numel(), reasons[p]) for n, p in named.items() if p in reasons),
    )


def effective_weight(model: nn.Module, name: str) -> Tensor:
    """The weight a layer makes of its parameter under ``weight_norm`` or ``prune``; elsewhere the parameter itself."""
    parameter, gain = model.get_parameter(name), gain_of(model, name)
    if gain is not None:
        size = model.get_parameter(gain)
        axes = [axis for axis in range(parameter.ndim) if size.ndim == 0 or size.shape[axis] == 1]
        # The weight's own formula g v/‖v‖: a layer's own copy may be stale until the next forward pass.
        direction: Tensor = parameter / parameter.norm(dim=axes, keepdim=True)
        return direction * size
    owner, _, attribute = name.rpartition(".")
    # torch.nn.utils.prune keeps the mask in a buffer beside the original.
    mask = getattr(model.get_submodule(owner), f"{attribute.removesuffix('_orig')}_mask", None)
    return parameter * mask if attribute.endswith("_orig") and isinstance(mask, Tensor) else parameter


def gain_of(model: nn.Module, name: str) -> str | None:
    """The gain beside a weight's direction under ``weight_norm``; None for any other weight."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    # Two generations in torch: parametrizations hold original0 (g) and original1 (v), the older hook _g and _v.
    if attribute == "original1" and type(module[0]).__name__ == "_WeightNorm":  # type: ignore[index]
        return f"{owner}.original0"
    if (
        attribute.endswith("_v")
        and attribute[:-2] not in module._parameters
        and f"{attribute[:-2]}_g" in module._parameters
    ):
        return f"{name[:-2]}_g"
    return None


def _owned(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every parameter with its layer and its attribute name there: ``weight``, also where the weight is computed."""
    computed = {module: module.parametrizations for module in model.modules() if parametrize.is_parametrized(module)}
    # A parametrisation's modules hold the originals. Visited on their own, they would look like layers.
    inner = {part for parts in computed.values() for part in parts.modules()}  # type: ignore[union-attr]
    for module in model.modules():
        if module in computed:
            for weight, parts in module.parametrizations.items():  # type: ignore[union-attr,operator]
                kept = _keeping_zeros(parts)
                for name, parameter in parts.named_parameters():
                    yield module, weight if name == kept else f"{weight}:{name}", parameter
        if module not in inner:
            for name, parameter in module.named_parameters(recurse=False):
                yield module, _plain_name(module, name), parameter


def _plain_name(module: nn.Module, name: str) -> str:
    """``weight`` for its ``weight_v`` of ``weight_norm`` and ``weight_orig`` of ``spectral_norm`` and ``prune``."""
    plain, _, kind = name.rpartition("_")
    if plain in module._parameters or not _WEIGHT_NAME.fullmatch(plain):
        return name
    if kind == "orig" or (kind == "v" and f"{plain}_g" in module._parameters):
        return plain
    return f"{plain}:{kind}" if kind == "g" else name


def _keeping_zeros(parts: nn.Module) -> str | None:
    """The original of a parametrisation whose zeros are zeros of the weight; None if there is none.

    Found out on a copy: half of an original's entries are set to zero, and must be zero in the weight and nowhere else.
    """
    for name, original in parts.named_parameters(recurse=False):
        known = len(parts) == 1 and type(parts[0]).__name__  # type: ignore[arg-type,index]
        if known in ("_SpectralNorm", "_WeightNorm") or original.is_meta:
            if name != "original0":  # the gain of weight_norm
                return name
            continue
        # A copy, in evaluation mode, with the random state kept: parametrisations may hold buffers or draw numbers.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy = deepcopy(parts).eval()
            pattern = (torch.arange(original.numel(), device=original.device) % 2 == 0).view(original.shape)
            copy.get_parameter(name).fill_(1.0).masked_fill_(pattern, 0)
            weight = copy()
        if weight.shape == original.shape and bool(((weight == 0) == pattern).all()):
            return name
    return None


def _reason(module: nn.Module, name: str, parameter: nn.Parameter) -> str | None:
    """The reason against pruning a parameter; None for a prunable one."""
    is_matrix = parameter.ndim >= 2
    kind = _kind(module)
    if kind is not None:
        return kind
    plain, _, part = name.partition(":")
    if _WEIGHT_NAME.fullmatch(name) and is_matrix:
        return None if parameter.is_floating_point() else COMPLEX
    if part and _WEIGHT_NAME.fullmatch(plain):
        return PARAMETRISED if part == "original" or (part == "original1" and is_matrix) else VECTOR
    if _POSITION.search(name):
        return BIAS
    return RAW if is_matrix and parameter.numel() > max(parameter.shape) else VECTOR  # (1, 9) is a vector


def _kind(module: nn.Module) -> str | None:
    """``NORM`` or ``EMBEDDING`` for normalisations and embeddings; None for any layer, whatever its class is called."""
    if isinstance(module, _LAYERS) or _has_layer_shape(module):
        return None
    # Without bases named like layers: a class LinearNorm or NormConv is a layer with a norm inside.
    bases = [base.__name__ for base in type(module).__mro__ if not _LAYER_NAME.search(base.__name__)]
    kinds: list[tuple[str, Callable[[str], object]]] = [(NORM, _NORM.search), (EMBEDDING, _EMBEDDING.search)]
    return next((kind for kind, search in kinds if any(search(base) for base in bases)), None)


def _has_layer_shape(module: nn.Module) -> bool:
    """Whether a module tells inputs and outputs as layers do; spconv's convolutions among them."""
    return any(hasattr(module, f"in_{unit}") and hasattr(module, f"out_{unit}") for unit in ("features", "channels"))
