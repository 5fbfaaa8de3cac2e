"""The command that holds a workload against its contracts: sound ones pass, broken ones get one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from altermoma_ray.errors import UserError
from altermoma_ray.testing.workload import check_workload
from examples import own_model as own

EXAMPLE = Path(own.__file__)


class NoMask(own.SpeedNet):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch)


class LeakingMask(own.SpeedNet):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked) + 1e-3 * self.radar(batch.radar).mean(1)


class Misspelt(own.SpeedNet):
    def group_of(self, parameter):
        return {"radar": "rader"}.get(super().group_of(parameter), super().group_of(parameter))


class NoGroup(own.SpeedNet):
    modalities = ("radar", "sound", "smell")


class BatchDependent(own.SpeedNet):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked) / len(batch)


class Unsteady(own.SpeedNet):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked) + 0.1 * torch.rand(len(batch))


class WrongSize(own.SpeedNet):
    def forward(self, batch, masked=frozenset()):
        return self.head(batch.radar)


class MeanLoss(own.Regression):
    def loss(self, outputs, batch):
        return {"total": super().loss(outputs, batch)["total"].mean()}


class BareLoss(own.Regression):
    def loss(self, outputs, batch):
        return super().loss(outputs, batch)["total"]


class Detached(own.Regression):
    def loss(self, outputs, batch):
        return {"total": super().loss(outputs, batch)["total"].detach()}


class Unpicklable(own.Regression):
    def decode(self, outputs, batch):
        return {name: lambda: 1 for name in batch.names}


class NoTotal(own.Regression):
    def loss(self, outputs, batch):
        return {"squared": super().loss(outputs, batch)["total"]}


class NanLoss(own.Regression):
    def loss(self, outputs, batch):
        return {"total": super().loss(outputs, batch)["total"] * torch.nan}


class MetricMissing(own.Regression):
    def evaluate(self, predictions, data, rows):
        return {"error": super().evaluate(predictions, data, rows)["error"]}


class MetricUndeclared(own.Regression):
    def evaluate(self, predictions, data, rows):
        return super().evaluate(predictions, data, rows) | {"bias": 0.0}


class NanMetric(own.Regression):
    def evaluate(self, predictions, data, rows):
        return super().evaluate(predictions, data, rows) | {"r2": float("nan")}


class ChangingRows(own.Recordings):
    calls = 0

    def rows(self, split, part="all", limit=None):
        self.calls += 1
        rows = super().rows(split, part)
        return rows if limit is None else rows[self.calls : self.calls + limit]


class ShortBatch(own.Recordings):
    def collate(self, samples):
        return super().collate(samples).__dict__


class Unprepared(own.Recordings):
    def prepare(self):
        raise UserError("recordings are not in /data; copy them there")


def complaint(**parts):
    workload = own.WORKLOAD.model_copy(update=parts)
    with pytest.raises(UserError) as found:
        check_workload(workload, lambda line: None)
    (line,) = str(found.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"model": NoMask}, "masking radar changes nothing; mend its model"),
        ({"model": LeakingMask}, "with radar masked, its parameters change the outputs; mend its model"),
        ({"model": Misspelt}, "is in group 'rader', but the groups are radar, sound, fusion; mend its model"),
        ({"model": NoGroup}, "group smell has no weight that can be pruned; mend its model"),
        ({"model": Unsteady}, "the same batch gives other outputs when it comes again; mend its model"),
        ({"model": WrongSize}, r"RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x16 and 128x64) ("),
        ({"model": BatchDependent}, "of samples alone, "),
        ({"task": MeanLoss()}, "loss total must be one number for each sample, [3], but is []; mend its task"),
        ({"task": BareLoss()}, "`loss` must return a dictionary of tensors, but returned a Tensor; mend its task"),
        ({"task": Detached()}, "no gradient leads from `total` to the model; it must not be detached; mend its task"),
        ({"task": Unpicklable()}, "`decode` gives predictions that cannot be pickled: "),
        ({"task": NoTotal()}, "`total` is missing in the losses, which are squared; mend its task"),
        ({"task": NanLoss()}, "loss total is [nan, nan, nan]; mend its task"),
        ({"task": MetricMissing()}, "`evaluate` gives no r2, which `metrics` lists; mend its task"),
        ({"task": MetricUndeclared()}, "`evaluate` gives bias, which `metrics` does not list; mend its task"),
        ({"task": NanMetric()}, "metric r2, the default objective, must be a number, but is nan; mend its task"),
        ({"data": ChangingRows()}, "; mend its data source"),
        ({"data": ShortBatch()}, "a batch needs len and `to(device)`, but dict lacks one; mend its data source"),
        ({"data": Unprepared()}, "recordings are not in /data; copy them there"),
    ],
    ids=lambda value: type(next(iter(value.values()))).__name__ if isinstance(value, dict) else "",
)
def test_a_broken_workload_gets_one_line(parts, line):
    assert line in complaint(**parts)


def test_the_example_is_sound_and_says_what_was_checked(printed, tmp_path, capsys):
    out = printed("check", f"{EXAMPLE}:WORKLOAD", "--storage", str(tmp_path))
    assert out == "own_model.py:WORKLOAD is fit for a search\n"
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 120
