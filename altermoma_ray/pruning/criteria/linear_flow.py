"""A network as a sum over paths: how SynFlow sees layers beyond a plain product of weights and ReLU.

Notation: x, y activations; γ, β gain and shift, μ, σ² statistics of a normalisation; ⌊·⌋ held constant, i.e. without a
gradient; R the flow, the sum of the outputs.

SynFlow (Tanaka et al., NeurIPS 2020) needs R = 1ᵀ ∏|θ| 1: all inputs one, all parameters magnitudes, nothing between
the layers but ReLU, the identity on non-negative values. Then ``Σ θ ∂R/∂θ`` over any cut through the network is
R: flow is conserved, and no layer on all paths can be emptied before the others. The authors' code replaces
all of a model's state by its magnitudes and runs in evaluation mode, on freshly initialised networks: biases and
running means are zero, variances and gains one, a normalisation is no more than the identity. In a trained network
positivity and conservation take more:

====================================  ===============================================================================
biases, β, μ                          zero, so that every path starts at an input
batch normalisation                   its linear part in evaluation mode, ``|γ| x̂`` with ``x̂ = x / √(σ² + ε)``
layer, group, instance normalisation  ``|γ| x̂`` with ``x̂ = x``: their statistics are no parameters
... if balanced                       ``|γ| x̂ / ⌊mean x̂⌋``, see below
GELU, SiLU, tanh, sigmoid, ...        x, as ReLU
softmax                               ``x / ⌊Σ x⌋``, negative logits (masks) being zero: shares, to which flow runs
product of several activations        the same, each with its part of the gradient: query · key, attention · value,
                                      depth · feature. A path counts once, whatever its number of factors.
``nn.MultiheadAttention``             from the rows above; its masks are left out
====================================  ===============================================================================

Balance. Magnitudes grow from layer to layer, by the root of the fan-in or so: of two parallel branches the deeper one
brings all but, say, 10⁻¹² of the flow, and the other is emptied, although flow was conserved. Normalisations protect
signals from this fate, but their statistics were not measured on the flow. So each brings its flow to a mean of one, by
a constant. Along a chain the constants change all scores by one factor, and no mask; they only weigh parallel branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def linear_copy(model: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU, in evaluation mode, with magnitudes for weights and zero for biases.

    Run the copy inside :class:`LinearFlow`. The model itself is not touched. The copy is on the CPU, since sparse
    convolutions know no float64 elsewhere.
    """
    copy = deepcopy(model).to("cpu", torch.float64).eval().requires_grad_(False)
    for name, parameter in copy.named_parameters():
        parameter.grad = None
        # A bias would start paths within the network, and its flow would not be conserved down to the inputs.
        parameter.zero_() if "bias" in name.rpartition(".")[2] else parameter.abs_()
    return copy


class LinearFlow(TorchFunctionMode):
    """While active, functions of activations are replaced as in the table above.

    Args:
        balanced: whether normalisations bring their flow to a mean of one.

    >>> with LinearFlow(balanced=True):
    ...     functional.gelu(torch.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """

    def __init__(self, *, balanced: bool) -> None:
        super().__init__()
        norm = _balanced_gain if balanced else _gain
        self._stand_ins = _STAND_INS | {function: partial(stand_in, norm) for function, stand_in in _NORMS.items()}

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, or its stand-in from the table."""
        if function in _PRODUCTS:
            arguments = _shared_out(arguments)
        # torch leaves the mode while this method runs: the calls within a stand-in are not replaced again.
        return self._stand_ins.get(function, function)(*arguments, **(options or {}))


class _Share(torch.autograd.Function):
    """The value unchanged, with a fraction of its gradient."""

    @staticmethod
    def forward(context: Any, value: Tensor, fraction: float) -> Tensor:
        context.fraction = fraction
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.fraction, None


def _shared_out(factors: Sequence[Any]) -> list[Any]:
    """Factors of a product whose activations, if they are several, each get an equal share of the flow."""
    # Leaves are weights or inputs: flow through a weight must reach the activation in full.
    active = [isinstance(factor, Tensor) and factor.requires_grad and not factor.is_leaf for factor in factors]
    if sum(active) < 2:
        return list(factors)
    return [_Share.apply(f, 1 / sum(active)) if is_active else f for f, is_active in zip(factors, active, strict=True)]


def _identity(value: Tensor, *arguments: Any, **options: Any) -> Tensor:
    return value


def _softmax(value: Tensor, dim: int = -1, *arguments: Any, **options: Any) -> Tensor:
    # Masks add −∞ to a logit: clamped to 0, the masked token gets no share.
    value = value.clamp(min=0)
    # Held constant: shares sum to one, so the gradient of the total would cancel flow.
    total = value.detach().sum(dim, keepdim=True)
    return value / total.masked_fill(total == 0, 1)


def _scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
    # Shared out by hand: within a stand-in the mode is off and would miss these products.
    query, key = _shared_out([query, key])
    shares, value = _shared_out([_softmax(query @ key.transpose(-2, -1)), value])
    attended: Tensor = shares @ value
    return attended


def _gain(value: Tensor, gain: Tensor | None) -> Tensor:
    return value if gain is None else value * gain


def _balanced_gain(value: Tensor, gain: Tensor | None) -> Tensor:
    # Held constant: a factor with a gradient of its own would break the conservation of flow.
    mean = value.detach().mean()
    return _gain(value / mean if mean > 0 else value, gain)


_Norm = Callable[[Tensor, Tensor | None], Tensor]


def _batch_norm(
    norm: _Norm,
    value: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    # The running mean and the shift are dropped, as every addition is: paths start at inputs.
    scaled = value if running_var is None else value * _over_channels((running_var + eps).rsqrt(), value)
    return norm(scaled, _over_channels(weight, value))


def _layer_norm(
    norm: _Norm, value: Tensor, shape: Any, weight: Tensor | None = None, *arguments: Any, **options: Any
) -> Tensor:
    return norm(value, weight)


def _group_norm(
    norm: _Norm, value: Tensor, groups: int, weight: Tensor | None = None, *arguments: Any, **options: Any
) -> Tensor:
    return norm(value, _over_channels(weight, value))


def _instance_norm(
    norm: _Norm,
    value: Tensor,
    mean: Any = None,
    variance: Any = None,
    weight: Tensor | None = None,
    *arguments: Any,
    **options: Any,
) -> Tensor:
    return norm(value, _over_channels(weight, value))


def _over_channels(gain: Tensor | None, value: Tensor) -> Any:
    return None if gain is None else gain.view(-1, *[1] * (value.ndim - 2))


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_heads: int, *arguments: Any, **options: Any
) -> tuple[Tensor, None]:
    """Attention over tokens [T, ...]: ``nn.MultiheadAttention`` passes this order, whatever its own is."""
    # By position: torch passes in_proj_weight as the 6th argument and out_proj_weight as the 12th.
    in_proj_weight, out_proj_weight = arguments[0], arguments[6]
    if options.get("use_separate_proj_weight"):
        projections = [options[f"{name}_proj_weight"] for name in "qkv"]
    else:
        projections = in_proj_weight.chunk(3)
    heads = [
        torch.unflatten(functional.linear(tokens, weight), -1, (num_heads, -1)).movedim(0, -2)
        for tokens, weight in zip((query, key, value), projections, strict=True)
    ]
    attended = _scaled_dot_product_attention(heads[0], heads[1], heads[2])
    return functional.linear(attended.movedim(-2, 0).flatten(-2), out_proj_weight), None


def _everywhere(*names: str) -> list[Any]:
    """A function under its names in torch, as a method and in ``torch.nn.functional``."""
    owners = (torch, Tensor, functional)
    return [getattr(owner, name) for name in names for owner in owners if hasattr(owner, name)]


_PRODUCTS = frozenset(_everywhere("mul", "__mul__", "__rmul__", "matmul", "__matmul__", "bmm", "einsum"))

_ACTIVATIONS = (
    *("celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu"),
    *("relu6", "selu", "sigmoid", "sigmoid_", "silu", "softplus", "tanh", "tanh_"),
)

_STAND_INS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_everywhere(*_ACTIVATIONS), _identity),
    **dict.fromkeys(_everywhere("softmax"), _softmax),
    functional.scaled_dot_product_attention: _scaled_dot_product_attention,
    functional.multi_head_attention_forward: _multi_head_attention,
}

_NORMS: dict[Any, Callable[..., Tensor]] = {
    functional.batch_norm: _batch_norm,
    functional.layer_norm: _layer_norm,
    functional.group_norm: _group_norm,
    functional.instance_norm: _instance_norm,
}
