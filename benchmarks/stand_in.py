"""A workload which waits where a full-size one works: for its samples, for its device, and for its official metric.

Loading and the device are pauses, since neither takes the worker's own core; the metric keeps a core busy, in Python.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.data.sampling import ValidationPart
from altermoma_ray.metrics import Metric
from altermoma_ray.workloads import Recipe, Workload

LOADING = 0.02
"""Seconds to load one sample."""
DEVICE = 0.02
"""Seconds of the device for one sample, of a training step and of a forward pass alike."""
METRIC = 2.0
"""Seconds of one core for the metric."""
SAMPLES = 400
"""Samples of each split."""


@dataclass
class Batch:
    """Samples of two sensors. Their size is that of pictures: too large to be kept, as on a full-size data set."""

    rows: list[int]
    left: Tensor
    right: Tensor
    pictures: Tensor

    def to(self, device: Any) -> Batch:
        return replace(self, left=self.left.to(device), right=self.right.to(device))


class StandIn(nn.Module):
    """Two branches and a head; a pass takes :data:`DEVICE` for each sample."""

    modalities = ("left", "right")

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.left, self.right = nn.Linear(8, 16), nn.Linear(8, 16)
            self.head = nn.Linear(32, 1)

    def group_of(self, parameter: str) -> str:
        branch = parameter.split(".")[0]
        return branch if branch in self.modalities else "fusion"

    def forward(self, batch: Batch, masked: frozenset[str] = frozenset()) -> Tensor:
        time.sleep(DEVICE * len(batch.rows))
        maps = [
            torch.relu(getattr(self, name)(getattr(batch, name))) * (name not in masked) for name in self.modalities
        ]
        return self.head(torch.cat(maps, dim=1))[:, 0]


class Regression:
    """The squared error of a sum."""

    metrics = (Metric("error", "squared error", "minimize"),)

    def loss(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"total": (outputs - batch.left.sum(1) - batch.right.sum(1)) ** 2}

    def decode(self, outputs: Tensor, batch: Batch) -> Mapping[str, float]:
        errors = self.loss(outputs, batch)["total"]
        return dict(zip(map(str, batch.rows), errors.tolist(), strict=True))

    def evaluate(self, predictions: Mapping[str, float], data: Any, rows: Sequence[int]) -> dict[str, float]:
        end = time.thread_time() + METRIC
        while time.thread_time() < end:
            pass
        return {"error": sum(predictions.values()) / len(rows)}


class Samples:
    """Samples by their rows; each takes :data:`LOADING` to load."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> tuple[int, Tensor]:
        time.sleep(LOADING)
        row = self._rows[position]
        return row, torch.randn(2, 8, generator=torch.Generator().manual_seed(row))


class Generated:
    """:data:`SAMPLES` to train on, and as many to validate on."""

    def fingerprint(self, split: str) -> str:
        return "stand-in-1"

    def prepare(self) -> None:
        """Nothing to prepare."""

    def rows(self, split: str, part: ValidationPart = "all", limit: int | None = None) -> list[int]:
        first = 0 if split == "train" else SAMPLES
        return list(range(first, first + SAMPLES))[:limit]

    def dataset(self, rows: Sequence[int], *, augment: bool, seed: int) -> Samples:
        return Samples(rows)

    def collate(self, samples: Sequence[tuple[int, Tensor]]) -> Batch:
        rows, sensors = zip(*samples, strict=True)
        left, right = torch.stack(sensors).unbind(1)
        # One number, spread over 4 GiB.
        return Batch(list(rows), left, right, torch.zeros(1).expand(1 << 30))


WORKLOAD = Workload(
    name="stand-in", model=StandIn, task=Regression(), data=Generated(), recipe=Recipe(batch_size=4, loader_processes=2)
)
