"""Taking turns: every model runs as often as asked, and its stages are told apart."""

from __future__ import annotations

import torch
from torch import nn

from altermoma_ray.models.latency import Latency, measure


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict({"left": nn.Linear(2, 2), "right": nn.Linear(2, 2)})
        self.last = nn.Linear(2, 1)

    def forward(self, batch):
        return self.last(self.branches["left"](batch) + self.branches["right"](batch))


def test_models_take_turns_on_the_same_batches():
    models, seen = {"a": Staged().eval(), "b": Staged().eval()}, []

    def run(model, batch):
        seen.append((next(name for name in models if models[name] is model), float(batch.sum())))
        return model(batch)

    batches = [torch.full((1, 2), float(number)) for number in range(2)]
    found = measure(models, batches, run, repeats=3, warm_up=1)
    assert [len(found[name].seconds) for name in "ab"] == [3, 3]
    assert [name for name, _ in seen] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert all(seen[2 * turn][1] == seen[2 * turn + 1][1] for turn in range(4))
    assert set(found["a"].stages_ms()) == {"branches.left", "branches.right", "last"}
    assert not models["a"].last._forward_hooks


def test_the_95th_percentile_leaves_one_in_twenty_above_it():
    latency = Latency([number / 1000 for number in range(1, 101)], {})
    assert round(latency.p95_ms) == 96
    assert latency.median_ms == 50.5
