"""A fusion model of your own, from its definition to a search, in one file.

    python -m altermoma_ray.check examples/own_model.py:WORKLOAD
    python -m altermoma_ray.search examples/own_model.py:WORKLOAD

A radar and a microphone follow the same vehicle, and the network tells its speed. Each sensor alone would nearly do, so
that both branches learn much the same, and a search may take one copy away. docs/own-model.md explains each part.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.metrics import Metric
from altermoma_ray.workloads import Recipe, Workload


@dataclass
class Batch:  # N samples; a search asks for their number, and for the same batch on another device
    names: list[str]
    radar: Tensor  # [N, 16]
    sound: Tensor  # [N, 16]
    speed: Tensor  # [N]

    def __len__(self):
        return len(self.names)

    def to(self, device):
        return replace(self, radar=self.radar.to(device), sound=self.sound.to(device), speed=self.speed.to(device))


class SpeedNet(nn.Module):
    """A branch for each sensor, and a head that sees both. A masked sensor gives zeros: its branch gets no gradient."""

    modalities = ("radar", "sound")  # what can be masked, in this order

    def __init__(self):
        super().__init__()
        self.radar = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 64))
        self.sound = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 64))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def group_of(self, parameter):
        """The modality that a parameter belongs to, by its name; "fusion" for all that both modalities share."""
        branch = parameter.split(".")[0]
        return branch if branch in self.modalities else "fusion"

    def forward(self, batch, masked=frozenset()):
        seen = {"radar": self.radar(batch.radar), "sound": self.sound(batch.sound)}
        # Zeros of the features' own width, not of a number written here: pruning may remove channels.
        features = [torch.zeros_like(seen[name]) if name in masked else seen[name] for name in self.modalities]
        return self.head(torch.cat(features, dim=1))[:, 0]


class Regression:
    """The loss to train with, and the metrics to compare pruned models by."""

    metrics = (Metric("r2", "R²"), Metric("error", "mean absolute error", direction="minimize"))  # first: the objective

    def loss(self, outputs, batch):
        return {"total": (outputs - batch.speed) ** 2}  # [N]: one number for each sample, not their mean

    def decode(self, outputs, batch):
        return dict(zip(batch.names, outputs.tolist(), strict=True))

    def evaluate(self, predictions, data, rows):
        found, wanted = torch.tensor([predictions[str(row)] for row in rows]), data.speed[rows]
        unexplained = ((found - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
        return {"r2": 1 - float(unexplained), "error": float((found - wanted).abs().mean())}


class Recordings:
    """Generated samples: rows 0 to 799 to train on, 800 to 999 to validate on."""

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        engine = torch.randn(1000, 6, generator=draw)  # what moves the vehicle: each sensor sees a mixture, with noise
        self.speed = engine.sin().sum(1)
        mixtures, noises = torch.randn(2, 6, 16, generator=draw), torch.randn(2, 1000, 16, generator=draw)
        self.radar, self.sound = engine @ mixtures + 0.3 * noises

    def fingerprint(self, split):
        return "recordings-1"  # must change whenever the data do: scores are kept under it

    def prepare(self):
        """Nothing has to be made or checked before workers start."""

    def rows(self, split, part="all", limit=None):
        rows = range(800) if split == "train" else range(800, 1000)
        return list({"all": rows, "tuning": rows[::2], "reporting": rows[1::2]}[part][:limit])

    def dataset(self, rows, *, augment, seed):
        return [(str(row), self.radar[row], self.sound[row], self.speed[row]) for row in rows]

    def collate(self, samples):
        names, *tensors = zip(*samples, strict=True)
        return Batch(list(names), *map(torch.stack, tensors))


@cache
def trained():
    """A model to prune. Yours has a checkpoint: Workload(model=SpeedNet, checkpoint="speed.safetensors", ...)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, data = SpeedNet(), Recordings()
        batch = data.collate(data.dataset(data.rows("train"), augment=False, seed=0))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(300):
            optimizer.zero_grad()
            Regression().loss(model(batch), batch)["total"].mean().backward()
            optimizer.step()
    return model


WORKLOAD = Workload(name="speed-net", model=trained, task=Regression(), data=Recordings(), recipe=Recipe(batch_size=32))
SPACE = SearchSpace(fine_tune_epochs=4.0)  # what a search of this workload varies, and how long a trial trains
