"""Comparison of nested values: tensors in dictionaries, sequences and dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The innermost parts of a value, each with its path.

    >>> list(leaves({"box": [1, 2.5], "name": "car"}))
    [('.box.0', 1), ('.box.1', 2.5), ('.name', 'car')]
    """
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [(field.name, getattr(value, field.name)) for field in fields(value)]
    # Text is a sequence of texts, which are sequences again: without the exception, the walk would never end.
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        parts = list(enumerate(value))
    else:
        yield path, value
        return
    for name, part in parts:
        yield from leaves(part, f"{path}.{name}")


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The tensors in a value, by their paths."""
    return {path: part for path, part in leaves(value) if isinstance(part, Tensor)}


def differences(first: Any, second: Any, *, tolerance: float = 0.0) -> list[str]:
    """The paths of all parts in which two values differ.

    Args:
        first: one value.
        second: the other value.
        tolerance: largest difference of equal tensors, relative and absolute.

    >>> differences({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([1.0, 2.5])})
    ['.a']
    >>> differences({"a": 1}, {"b": 1})
    ['.a', '.b']
    """
    ones, others = dict(leaves(first)), dict(leaves(second))
    return sorted(ones.keys() ^ others.keys()) + [
        path for path in ones if path in others and not _same(ones[path], others[path], tolerance)
    ]


def copied(value: Any) -> dict[str, Tensor]:
    """Copies of the tensors in a value, by their paths; later changes of the value leave the copies alone."""
    return {path: tensor.detach().clone() for path, tensor in tensors_of(value).items()}


def _same(first: Any, second: Any, tolerance: float) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        # Lost gradients and metrics without a value are NaN on both sides, which is no difference here.
        return torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second))
    return bool(first == second)
