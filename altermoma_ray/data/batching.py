"""What all batches can do, whatever their fields: count their samples, move to a device, give some samples alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from typing_extensions import Self


@dataclass(kw_only=True)
class SampleBatch:
    """Base of a batch of N samples: every field is a tensor that leads with N, or a list of one entry a sample.

    The first field has an entry for every sample; an optional later list may be empty.

    Example::

        @dataclass(kw_only=True)
        class Pictures(SampleBatch):
            names: list[str]
            images: Tensor

        Pictures(names=["a", "b"], images=torch.zeros(2, 3, 4, 4)).samples(1, 2).names  # ["b"]
    """

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        # The fields are gone through by type: a further field needs no change here.
        return replace(self, **{one.name: _move(getattr(self, one.name), device) for one in fields(self)})

    def samples(self, start: int, stop: int) -> Self:
        """Samples ``start`` to ``stop`` (exclusive) as a batch of their own."""
        return replace(self, **{one.name: getattr(self, one.name)[start:stop] for one in fields(self)})


def _move(value: Tensor | Sequence[Tensor] | list[str], device: torch.device | str) -> object:
    # Names are text and stay where they are.
    if isinstance(value, Tensor):
        return value.to(device)
    return [item.to(device) if isinstance(item, Tensor) else item for item in value]
