from __future__ import annotations

import math

import pytest
import torch

from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.heads.centerpoint import REGRESSIONS, CenterPointHead
from altermoma_ray.tasks.detection.boxes import encode_boxes
from altermoma_ray.tasks.detection.centerpoint import CenterPointTask
from tests.tasks.detection.test_task import make_batch, random_boxes

CONFIG = CenterPointHeadConfig(
    hidden=8,
    branch_hidden=8,
    bev_size=(24, 20),
    cell_size=(1.0, 1.2),
    origin=(-12.0, -12.0),
    gaussian_min_radius=1,
    least_score=0.3,
)
TASK = CenterPointTask(CONFIG)
GROUP_OF = [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]


@pytest.fixture
def batch():
    boxes, labels = zip(*(random_boxes(count, count) for count in (4, 1, 6)), strict=True)
    return make_batch(list(boxes), list(labels))


@pytest.fixture
def outputs():
    torch.manual_seed(0)
    return CenterPointHead(CONFIG, 4).eval()(torch.randn(3, 4, *CONFIG.bev_size))


def perfect_outputs(boxes, labels):
    """What a head would say that knows the objects, which stand in cells of their own."""
    code = encode_boxes(boxes.double(), TASK.grid).float()
    widths = {"dense_heatmap": 10, **{name: 6 * width for name, width in REGRESSIONS.items()}}
    outputs = {name: torch.zeros(1, width, *CONFIG.bev_size) for name, width in widths.items()}
    outputs["dense_heatmap"] -= 9
    parts = dict(zip(REGRESSIONS, code.split(list(REGRESSIONS.values()), dim=1), strict=True))
    for row, label in enumerate(labels.tolist()):
        x, y = code[row, :2].long().tolist()
        # The best first, as random boxes are sorted by nothing.
        outputs["dense_heatmap"][0, label, x, y] = 9 - row / 10
        for name, width in REGRESSIONS.items():
            first = GROUP_OF[label] * width
            offset = torch.tensor([x, y]) if name == "reg" else 0
            outputs[name][0, first : first + width, x, y] = parts[name][row] - offset
    return outputs


def test_truth_decodes_to_itself_and_its_boxes_cost_nothing():
    boxes, labels = random_boxes(6, 3)
    boxes[:, :2] = torch.tensor([[-11.0, -9], [-6, 7], [0, 0], [5, -7], [10, 10.5], [11.9, -11.9]])
    batch, outputs = make_batch([boxes], [labels]), perfect_outputs(boxes, labels)
    (found,) = TASK.detections(outputs, batch)
    torch.testing.assert_close(found.boxes, boxes, rtol=1e-4, atol=1e-4)
    assert found.labels.tolist() == labels.tolist()
    losses = TASK.loss(outputs, batch)
    assert losses["box"].item() == pytest.approx(0, abs=1e-5)
    assert losses["heatmap"].item() < 0.05


@pytest.mark.parametrize("height", ["bottom", "top"])
def test_a_height_of_another_point_of_the_box(height):
    boxes, labels = random_boxes(1, 3)
    outputs = perfect_outputs(boxes, labels)
    (found,) = CenterPointTask(CONFIG.model_copy(update={"height": height})).detections(
        outputs, make_batch([boxes], [labels])
    )
    half = boxes[0, 5] / 2
    torch.testing.assert_close(found.boxes[0, 2], boxes[0, 2] + (half if height == "bottom" else -half))


def test_losses_against_the_formulas(outputs, batch):
    losses = TASK.loss(outputs, batch)
    weights = [1.0] * 8 + [0.2] * 2
    for n in range(3):
        boxes, labels = batch.boxes[n], batch.labels[n].tolist()
        codes, wanted = encode_boxes(boxes.double(), TASK.grid), TASK.targets(batch, n).heatmap
        box = heat = 0.0
        for group, classes in enumerate(CONFIG.class_groups):
            members = [row for row, label in enumerate(labels) if label in classes]
            for row in members:
                x, y = codes[row, :2].long().tolist()
                said = torch.cat(
                    [outputs[name][n, group * w : (group + 1) * w, x, y] for name, w in REGRESSIONS.items()]
                ).tolist()
                true = [codes[row, 0] - x, codes[row, 1] - y, *codes[row, 2:]]
                box += sum(w * abs(a - float(b)) for w, a, b in zip(weights, said, true, strict=True)) / len(members)
            for label in classes:
                probability = outputs["dense_heatmap"][n, label].sigmoid()
                at = wanted[label] == 1
                loss = torch.where(
                    at,
                    -probability.log() * (1 - probability) ** 2,
                    -(1 - probability).log() * probability**2 * (1 - wanted[label]) ** 4,
                )
                peaks = (wanted[list(classes)] == 1).sum().clamp(min=1)
                heat += (loss.sum() / peaks).item()
        assert losses["box"][n].item() == pytest.approx(0.25 * box, rel=1e-4)
        assert losses["heatmap"][n].item() == pytest.approx(heat, rel=1e-3)
    torch.testing.assert_close(losses["total"], losses["heatmap"] + losses["box"])


def test_a_sample_does_not_depend_on_its_batch_and_may_be_empty(outputs, batch):
    batch.boxes[1], batch.labels[1] = torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64)
    together = TASK.loss(outputs, batch)
    assert together["box"][1] == 0
    for n in range(3):
        alone = TASK.loss({name: value[n : n + 1] for name, value in outputs.items()}, batch.samples(n, n + 1))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][n : n + 1], value, rtol=1e-5, atol=1e-6)


def test_unknown_velocity_teaches_nothing(outputs, batch):
    batch.boxes[0][:, 7:] = math.nan
    outputs = {name: value.detach() for name, value in outputs.items()}
    outputs["vel"].requires_grad_()
    losses = TASK.loss(outputs, batch)
    losses["total"].sum().backward()
    assert losses["total"].isfinite().all()
    assert not outputs["vel"].grad[0].any()
    assert outputs["vel"].grad[1].any()


def test_a_diverged_network_has_a_loss_that_is_not_finite_and_detects_nothing(outputs, batch):
    outputs = {name: value * math.nan for name, value in outputs.items()}
    assert TASK.loss(outputs, batch)["total"].isnan().all()
    assert [len(found.scores) for found in TASK.detections(outputs, batch)] == [0, 0, 0]


def test_neighbours_are_suppressed_within_their_group_alone():
    at = torch.tensor([[0.2, 0.2, 0, 4, 2, 2, 0, 0, 0], [1.5, 0.2, 0, 4, 2, 2, 0, 0, 0]])
    seen = {}
    for labels in ([0, 0], [0, 1], [1, 2], [8, 8], [9, 9]):
        small = at.clone()
        if labels[0] >= 8:
            small[:, 3:5] = 0.7
        of = torch.tensor(labels)
        (found,) = TASK.detections(perfect_outputs(small, of), make_batch([small], [of]))
        seen[tuple(labels)] = len(found.scores)
    # Cars within 2 m; a car and a truck are of two groups; a truck and a construction vehicle share 2.7 m of 4 m.
    # People of 0.7 m grow to 1.75 m and share 0.45 m: too little. Cones of 0.7 m grow to 2.8 m and share 1.5 m.
    assert seen == {(0, 0): 1, (0, 1): 2, (1, 2): 1, (8, 8): 2, (9, 9): 1}


def test_the_least_score_and_the_greatest_number_hold():
    boxes, labels = random_boxes(6, 3)
    boxes[:, :2] = torch.tensor([[-11.0, -9], [-6, 7], [0, 0], [5, -7], [10, 10.5], [11.9, -11.9]])
    labels[:] = 0
    outputs = perfect_outputs(boxes, labels)
    outputs["dense_heatmap"][0, 0, int(boxes[5, 0] + 12), int((boxes[5, 1] + 12) / 1.2)] = -1.0  # 0.27
    (found,) = TASK.detections(outputs, make_batch([boxes], [labels]))
    assert len(found.scores) == 5
    few = CenterPointTask(CONFIG.model_copy(update={"most_kept": 2}))
    (found,) = few.detections(outputs, make_batch([boxes], [labels]))
    torch.testing.assert_close(found.boxes, boxes[:2], rtol=1e-4, atol=1e-4)


def test_one_sample_can_be_learned_by_heart():
    torch.manual_seed(0)
    head = CenterPointHead(CONFIG, 4)
    boxes, labels = random_boxes(3, 1)
    batch, features = make_batch([boxes], [labels]), torch.randn(1, 4, *CONFIG.bev_size)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = TASK.loss(head(features), batch)["total"].mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
