"""Distillation: the loss against the unpruned model, and trials that learn by it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from altermoma_ray.engine.training.distillation import SCALE_SAMPLES, Distillation, tensors_of, unexplained, variances
from altermoma_ray.errors import UserError
from tests.workloads.two_branch import Generated, TwoBranch

WEIGHT = 0.5


@pytest.fixture
def data():
    return Generated()


@pytest.fixture
def batch(data):
    return data.collate(data.dataset(range(20, 26), augment=False, seed=0))


@pytest.fixture
def student():
    """A model away from the unpruned one."""
    model = TwoBranch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    return model


def teaching(student, data):
    return Distillation(student, TwoBranch().state_dict(), data)


def test_the_loss_is_the_share_of_the_teacher_s_variance_left_unexplained():
    draw = np.random.default_rng(0)
    sizes = {"map": (3, 4, 5), "score": (3,), "alone": (3, 2)}
    student, teacher = ({name: draw.normal(size=size) for name, size in sizes.items()} for _ in range(2))
    spread = {"map": 2.0, "score": 0.25}  # the third has no variance, and does not count
    naive = [
        np.mean([np.mean((student[name][n] - teacher[name][n]) ** 2) / spread[name] for name in spread])
        for n in range(3)
    ]
    tensors = [{name: torch.tensor(value) for name, value in one.items()} for one in (student, teacher)]
    np.testing.assert_allclose(unexplained(*tensors, spread).numpy(), naive)


def test_variances_are_of_all_elements_of_all_samples(data):
    teacher = TwoBranch().eval()
    batches = [data.collate(data.dataset(rows, augment=False, seed=0)) for rows in ([0], [10, 11], [20])]
    with torch.no_grad():
        values = torch.cat([teacher(batch) for batch in batches])
    assert variances(teacher, batches) == {"outputs": pytest.approx(float(values.var(unbiased=False)))}


def test_the_teacher_is_the_unpruned_model_whatever_the_student_has_become(student, data, batch):
    teacher = TwoBranch().eval()
    with teaching(student, data).loss(WEIGHT) as loss:
        found = loss(student(batch), batch)
    scale_rows = data.rows("train", limit=SCALE_SAMPLES)
    scale = variances(teacher, [data.collate(data.dataset(scale_rows, augment=False, seed=0))])["outputs"]
    with torch.no_grad():
        wanted = WEIGHT * (student(batch) - teacher(batch)).square() / scale
    torch.testing.assert_close(found, wanted)
    assert (wanted > 0).all()


def test_an_equal_model_has_nothing_to_learn(data, batch):
    model = TwoBranch()
    with teaching(model, data).loss(WEIGHT) as loss:
        assert loss(model(batch), batch).tolist() == [0.0] * len(batch)


def test_only_the_student_gets_gradients_and_runs_once(student, data, batch):
    distillation = teaching(student, data)
    runs = []
    with distillation.loss(WEIGHT) as loss:
        handle = student.register_forward_hook(lambda *_: runs.append(1))
        loss(student(batch), batch).mean().backward()
        handle.remove()
    assert len(runs) == 1
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())
    teacher = distillation._made()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert all(map(torch.equal, teacher.state_dict().values(), TwoBranch().state_dict().values()))


def test_a_sample_s_loss_does_not_depend_on_the_others(student, data, batch):
    halves = [data.collate(data.dataset(rows, augment=False, seed=0)) for rows in (range(20, 22), range(22, 26))]
    with teaching(student, data).loss(WEIGHT) as loss:
        whole, parts = loss(student(batch), batch), [loss(student(half), half) for half in halves]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_a_weight_of_zero_makes_no_teacher(student, data):
    distillation = teaching(student, data)
    with distillation.loss(0.0) as loss:
        assert loss is None
    assert distillation._teacher is None


def test_real_numbers_of_each_sample_are_compared_wherever_they_stand_in_the_outputs():
    outputs = {
        "boxes": [torch.zeros(2, 7), torch.zeros(2, 3)],
        "classes": torch.zeros(2, dtype=torch.long),
        "temperature": torch.zeros(()),
        "anchors": torch.zeros(5, 7),
        "name": "car",
    }
    with tensors_of(nn.Identity()) as tensors:
        assert sorted(tensors(outputs, 2)) == ["outputs.boxes.0", "outputs.boxes.1"]


class Gridded(TwoBranch):
    """Its outputs hold a grid as long as the first batch."""

    def forward(self, batch, masked=frozenset()):
        return {"score": super().forward(batch, masked), "grid": torch.arange(2.0)}


def test_tensors_of_a_fixed_length_are_no_tensors_of_the_samples(data, batch):
    model = Gridded()
    distillation = Distillation(model, model.state_dict(), data)
    with distillation.loss(WEIGHT) as loss:
        assert loss(model(batch), batch).tolist() == [0.0] * len(batch)
    assert distillation._variances.keys() == {"outputs.score"}


class Classes(TwoBranch):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked) > 0


class Endless(TwoBranch):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked) / 0


class Counted(TwoBranch):
    """As many values as the training has seen batches."""

    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked)[:, None].expand(-1, 3 if self.training else 2)


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (
            Classes,
            r"finds nothing to compare: Classes gives no tensor \[N, ...\] of real numbers that vary; mend",
        ),
        (Endless, r"needs finite values, but 'outputs' of the unpruned model has others; mend or add"),
        (Counted, r"tensors of one shape, but 'outputs' is \(6, 3\) in the pruned model and \(6, 2\) in the unpruned"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(maker, message, data, batch):
    model = maker()
    distillation = Distillation(model, copy.deepcopy(model.state_dict()), data)
    with pytest.raises(UserError, match=message), distillation.loss(WEIGHT) as loss:
        loss(model(batch), batch)
