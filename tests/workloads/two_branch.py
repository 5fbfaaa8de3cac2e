"""A small two-branch network on generated tensors that nothing in the package knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from altermoma_ray.metrics import Metric
from altermoma_ray.workloads import Recipe, Workload


@dataclass
class Batch:
    """What both sensors measured, and what is to be predicted."""

    names: list[str]
    radar: torch.Tensor
    audio: torch.Tensor
    target: torch.Tensor

    def __len__(self):
        return len(self.names)

    def to(self, device):
        return replace(self, radar=self.radar.to(device), audio=self.audio.to(device), target=self.target.to(device))


class TwoBranch(nn.Module):
    """A branch for each sensor, and a head on both."""

    modalities = ("audio", "radar")

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.radar = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
            self.audio = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(32, 1))

    def group_of(self, parameter):
        branch = parameter.split(".")[0]
        return branch if branch in self.modalities else "fusion"

    def forward(self, batch, masked=frozenset()):
        seen = {"radar": batch.radar, "audio": batch.audio}
        maps = [x.new_zeros(len(x), 16) if name in masked else getattr(self, name)(x) for name, x in seen.items()]
        return self.head(torch.cat(maps, dim=1))[:, 0]


class Regression:
    """The squared error, which is to be low, and the correlation, which is to be high."""

    metrics = (Metric("error", "squared error", "minimize"), Metric("r", "correlation"))

    def loss(self, outputs, batch):
        return {"total": (outputs - batch.target) ** 2}

    def decode(self, outputs, batch):
        return dict(zip(batch.names, outputs.cpu().tolist(), strict=True))

    def evaluate(self, predictions, data, rows):
        found = torch.tensor([predictions[str(row)] for row in rows])
        wanted = data.target[list(rows)]
        return {
            "error": float(((found - wanted) ** 2).mean()),
            "r": float(torch.corrcoef(torch.stack([found, wanted]))[0, 1]),
        }


class Generated:
    """Samples to train on (0 to 79) and to validate on (80 to 119), drawn once from a seed."""

    def __init__(self):
        self.sensors = torch.randn(120, 2, 8, generator=torch.Generator().manual_seed(1))
        self.target = self.sensors.sum((1, 2)) / 4

    def fingerprint(self, split):
        return "generated-1"

    def prepare(self):
        pass

    def rows(self, split, part="all", limit=None):
        rows = list(range(80)) if split == "train" else list(range(80, 120))
        rows = {"all": rows, "tuning": rows[::2], "reporting": rows[1::2]}[part]
        return rows if limit is None else rows[:: max(1, len(rows) // limit)][:limit]

    def dataset(self, rows, *, augment, seed):
        return [(str(row), self.sensors[row], self.target[row]) for row in rows]

    def collate(self, samples):
        names, sensors, target = zip(*samples, strict=True)
        radar, audio = torch.stack(sensors).unbind(1)
        return Batch(list(names), radar, audio, torch.stack(target))


WORKLOAD = Workload(
    name="two-branch", model=TwoBranch, task=Regression(), data=Generated(), recipe=Recipe(batch_size=8)
)
