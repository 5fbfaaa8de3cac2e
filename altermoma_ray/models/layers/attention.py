"""Multi-head attention whose number of heads may shrink (Vaswani et al., *Attention Is All You Need*, 2017).

Notation: N samples, L queries, S tokens of the memory, C channels, h heads of width d = C / h of the unpruned layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Queries attend to a memory, which gives keys and values; both may be the same tokens.

    Parameters have the names, shapes and initial values of ``nn.MultiheadAttention``, whose weights load one to one.
    Outputs and gradients have the same digits, except where PyTorch takes its fused kernel: in evaluation mode, without
    gradients, and with one tensor for queries and memory. There the two layers differ by rounding.

    PyTorch's own layer keeps its number of heads as a number and needs ``C = h d``. Here the number of heads follows
    from the weights, so that pruning may take whole heads away.

    >>> attention = Attention(8, heads=2)
    >>> attention(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)).shape
    torch.Size([1, 3, 8])
    >>> attention.heads
    2

    Args:
        channels: C, a multiple of the number of heads.
        heads: h.
        dropout: share of the attention weights set to zero in training.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = channels // heads
        """d, the width of a head."""
        self.dropout = dropout
        # Rows of all heads' queries, then of all keys, then of all values: [3 h d, C].
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        # In PyTorch's order of random draws: one seed gives the same layer in both classes.
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    @property
    def heads(self) -> int:
        """Number of heads left."""
        return len(self.in_proj_weight) // (3 * self.width)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Attend; returns [N, L, C].

        Args:
            queries: [N, L, C].
            memory: [N, S, C].
        """
        # Tokens before samples, and one product where there is one tensor: PyTorch's order, and its digits.
        if memory is queries:
            query, key, value = self._project(queries.transpose(0, 1), 0, 3)
        else:
            (query,) = self._project(queries.transpose(0, 1), 0, 1)
            key, value = self._project(memory.transpose(0, 1), 1, 3)
        attended = self.attend(query, key, value)
        return self.out_proj(attended.permute(2, 0, 1, 3).flatten(2)).transpose(0, 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The values [N, h, S, d], weighted by how well keys [N, h, S, d] fit queries [N, h, L, d]: [N, h, L, d]."""
        dropout = self.dropout if self.training else 0.0
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)

    def _project(self, tokens: Tensor, first: int, last: int) -> list[Tensor]:
        """Tokens as queries, keys or values by head.

        Args:
            tokens: [T, N, C].
            first: 0 for queries, 1 for keys, 2 for values.
            last: number behind the last of them.

        Returns:
            For each of them [N, h, T, d].
        """
        width = self.heads * self.width
        rows = slice(first * width, last * width)
        stacked = functional.linear(tokens, self.in_proj_weight[rows], self.in_proj_bias[rows])
        # Positive dimensions: ONNX knows no others.
        parts = stacked.unflatten(2, (last - first, width)).movedim(2, 0).contiguous()
        return [part.view(len(tokens), -1, self.width).transpose(0, 1).unflatten(0, (-1, self.heads)) for part in parts]


def attend_step_by_step(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """:meth:`Attention.attend` without dropout, in single operations: formats of files lack the fused one."""
    fits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return fits.softmax(dim=3) @ value
