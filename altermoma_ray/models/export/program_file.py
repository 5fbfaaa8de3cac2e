"""``torch.export`` programs of dense parts: files that PyTorch runs without our code."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from altermoma_ray.models.export.parts import Part


def program_bytes(part: Part) -> bytes:
    """A part as a ``.pt2`` file, a graph of PyTorch's operations for the shapes of the part's example.

    Read back with ``torch.export.load(file).module()``.
    """
    buffer = io.BytesIO()
    with torch.no_grad():
        torch.export.save(torch.export.export(part.module, tuple(part.inputs.values()), strict=False), buffer)
    return buffer.getvalue()


def run_program(data: bytes, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of a program by name.

    Args:
        data: the file's content, which this process wrote: loading a program may run code.
        inputs: in the part's order.
        outputs: their names, in the part's order.
    """
    with torch.no_grad():
        found = torch.export.load(io.BytesIO(data)).module()(*inputs.values())
    return dict(zip(outputs, found if isinstance(found, tuple) else (found,), strict=True))
