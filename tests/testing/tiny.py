"""A model, a task and a data source of one's own, as an outsider would write them: plain torch, nothing inherited."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from altermoma_ray.metrics import Metric


@dataclass
class Batch:
    names: list[str]
    sound: torch.Tensor
    """[N, 6]"""
    text: torch.Tensor
    """[N, 4]"""
    wanted: torch.Tensor
    """[N]"""

    def __len__(self):
        return len(self.names)

    def to(self, device):
        return Batch(self.names, self.sound.to(device), self.text.to(device), self.wanted.to(device))


class Model(nn.Module):
    modalities = ("sound", "text")

    def __init__(self):
        super().__init__()
        self.sound = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.text = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.joint = nn.Linear(16, 1)

    def group_of(self, parameter):
        part = parameter.split(".")[0]
        return part if part in self.modalities else "fusion"

    def forward(self, batch, masked=frozenset()):
        inputs = {"sound": batch.sound, "text": batch.text}
        parts = [
            value.new_zeros(len(value), 8) if name in masked else getattr(self, name)(value)
            for name, value in inputs.items()
        ]
        return {"score": self.joint(torch.cat(parts, dim=1))[:, 0]}


class Task:
    metrics = (Metric("error", "absolute error", "minimize"), Metric("bias", "mean error", is_column=False))

    def loss(self, outputs, batch):
        squared = (outputs["score"] - batch.wanted).square()
        return {"squared": squared, "total": 0.5 * squared}

    def decode(self, outputs, batch):
        return dict(zip(batch.names, outputs["score"].detach().cpu().clone(), strict=True))

    def evaluate(self, predictions, data, rows):
        wanted = {data.name(row): data.sample(row)[3] for row in rows}
        errors = torch.stack([predictions[name] - value for name, value in wanted.items()])
        return {"error": float(errors.abs().mean()), "bias": float(errors.mean())}


class Data:
    def fingerprint(self, split):
        return "tiny-1"

    def prepare(self):
        pass

    def name(self, row):
        return f"sample-{row}"

    def rows(self, split, part="all", limit=None):
        rows = list(range(8)) if split == "train" else list(range(8, 14))
        if part != "all":
            rows = rows[(part == "reporting") :: 2]
        return rows if limit is None else rows[:: max(1, -(-len(rows) // limit))]

    def sample(self, row, noise=0.0):
        draw = torch.Generator().manual_seed(row)
        sound, text, wanted = (torch.randn(size, generator=draw) for size in ((6,), (4,), ()))
        return self.name(row), sound + noise, text, wanted

    def dataset(self, rows, *, augment, seed):
        return [
            self.sample(row, 0.1 * ((seed + position) % 7) if augment else 0.0) for position, row in enumerate(rows)
        ]

    def collate(self, samples):
        names, *tensors = zip(*samples, strict=True)
        return Batch(list(names), *map(torch.stack, tensors))
