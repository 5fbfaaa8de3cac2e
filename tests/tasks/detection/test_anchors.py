from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.heads.anchors import AnchorHead
from altermoma_ray.tasks.detection import anchors as rules
from altermoma_ray.tasks.detection.anchors import AnchorTask, assigned, decode, direction, encode, pointed
from tests.tasks.detection.test_task import make_batch, random_boxes

CONFIG = AnchorHeadConfig(
    anchor_sizes=((4.0, 2.0, 1.5), (0.8, 0.7, 1.8)),
    anchor_bottoms=(-1.8, -1.7),
    anchor_range=(-12.0, -12.0, 12.0, 12.0),
    bev_size=(24, 20),
    cell_size=(1.0, 1.2),
    origin=(-12.0, -12.0),
    least_score=0.3,
)
TASK = AnchorTask(CONFIG)
ANCHORS = TASK.anchors()


@pytest.fixture
def batch():
    boxes, labels = zip(*(random_boxes(count, count) for count in (4, 1, 6)), strict=True)
    return make_batch(list(boxes), list(labels))


@pytest.fixture
def outputs():
    torch.manual_seed(0)
    return {name: 9 * value for name, value in AnchorHead(CONFIG, 4)(torch.randn(3, 4, *CONFIG.bev_size)).items()}


def spread(by_anchor):
    """Rows of all anchors [B, width] as the head's map [1, A · width, X, Y]."""
    return by_anchor.view(*CONFIG.bev_size, -1).permute(2, 0, 1)[None]


def test_anchors_of_a_cell_stand_at_its_centre():
    assert ANCHORS.shape == (24 * 20 * 4, 9)
    of_cell = ANCHORS.view(24, 20, 4, 9)[3, 5]
    assert of_cell[:, :2].unique(dim=0).tolist() == [pytest.approx([-8.5, -5.4])]
    expected = [[-1.05, 4, 2, 1.5, 0], [-1.05, 4, 2, 1.5, math.pi / 2], [-0.8, 0.8, 0.7, 1.8, 0]]
    torch.testing.assert_close(of_cell[:3, 2:7], torch.tensor(expected))
    assert not of_cell[:, 7:].any()


def test_the_published_anchors():
    anchors = AnchorTask(AnchorHeadConfig()).anchors().view(200, 200, 14, 9)
    assert anchors[0, 0, 0, :2].tolist() == pytest.approx([-49.352, -49.352])  # cells of 0.496 m
    assert anchors[199, 199, 13, :2].tolist() == pytest.approx([49.352, 49.352])
    assert anchors[7, 9, 12, 3:6].tolist() == pytest.approx([0.49, 2.49, 0.98])  # a barrier is wider than long


def test_codes_and_directions_give_the_boxes_back():
    boxes, _ = random_boxes(200, 0)
    anchors = ANCHORS[torch.randint(len(ANCHORS), (200,), generator=torch.Generator().manual_seed(0))]
    codes = encode(boxes, anchors)
    # A yaw learned by its sine may be half a turn off; the direction mends that.
    codes[::2, 6] += math.pi
    found = pointed(decode(codes, anchors), direction(boxes[:, 6], 0.7854), 0.7854)
    torch.testing.assert_close(found, boxes, rtol=1e-4, atol=1e-4)


def test_assignment_against_a_loop():
    boxes, _ = random_boxes(5, 2)
    boxes[:, 3:5] = torch.tensor([[4.1, 1.9], [0.8, 0.7], [3.0, 2.0], [1.6, 4.2], [9.0, 9.0]])
    boxes[1, :2] = torch.tensor([0.55, 0.65])  # small anchors are a metre apart
    overlaps = rules.nearest_iou(ANCHORS, boxes)
    found = assigned(ANCHORS, boxes, CONFIG)
    best = overlaps.max(dim=0).values
    for row in range(len(ANCHORS)):
        mine = [m for m in range(5) if overlaps[row, m] == best[m] and best[m] >= 0.3]
        if mine:
            expected = mine[-1]
        elif overlaps[row].max() >= 0.6:
            expected = int(overlaps[row].argmax())
        else:
            expected = rules.IGNORED if overlaps[row].max() >= 0.3 else rules.BACKGROUND
        assert found[row] == expected
    assert set(found.tolist()) >= {rules.IGNORED, rules.BACKGROUND, 0, 1}
    assert 4 not in found  # no anchor is nearly as large
    assert (assigned(ANCHORS, boxes[:0], CONFIG) == rules.BACKGROUND).all()


def test_losses_against_the_formulas(outputs, batch):
    outputs = {name: value.detach() for name, value in outputs.items()}
    losses = TASK.loss(outputs, batch)
    weights = torch.tensor([1.0] * 7 + [0.2] * 2)
    for n in range(3):
        owner = assigned(ANCHORS, batch.boxes[n], CONFIG)
        logits, codes, directions = (
            outputs[name][n].permute(1, 2, 0).reshape(len(ANCHORS), -1) for name in ("class", "box", "direction")
        )
        own = (owner >= 0).nonzero()[:, 0]
        objects = batch.boxes[n][owner[own]]
        number = max(1, len(own))
        wanted = torch.zeros_like(logits)
        wanted[own, batch.labels[n][owner[own]]] = 1
        probability = logits.sigmoid()
        focal = torch.where(
            wanted > 0,
            -0.25 * (1 - probability) ** 2 * probability.log(),
            -0.75 * probability**2 * (1 - probability).log(),
        )
        error = codes[own] - encode(objects, ANCHORS[own])
        error[:, 6] = error[:, 6].sin()
        error = error.abs()
        box = torch.where(error < 1 / 9, error**2 * 4.5, error - 1 / 18) * weights
        entropy = functional.cross_entropy(directions[own], direction(objects[:, 6], 0.7854), reduction="sum")
        assert losses["classification"][n].item() == pytest.approx(
            float(focal[owner != rules.IGNORED].sum() / number), rel=1e-4
        )
        assert losses["box"][n].item() == pytest.approx(float(box.sum() / number), rel=1e-4)
        assert losses["direction"][n].item() == pytest.approx(0.2 * float(entropy / number), rel=1e-4)
    torch.testing.assert_close(
        losses["total"], losses["classification"] + losses["box"] + losses["direction"], rtol=1e-5, atol=1e-5
    )


def test_truth_decodes_to_itself_and_its_boxes_cost_nothing():
    boxes, labels = random_boxes(4, 3)
    boxes[:, :2] = torch.tensor([[-9.4, -9.1], [-4.45, 6.65], [0.3, 0.4], [6.55, -6.65]])
    boxes[:, 3:5] = torch.tensor([[4.1, 1.9], [0.8, 0.7], [3.9, 2.2], [0.8, 0.6]])
    batch = make_batch([boxes], [labels])
    targets = TASK.targets(batch, 0, ANCHORS)
    codes, directions = torch.zeros(len(ANCHORS), 9), torch.zeros(len(ANCHORS), 2)
    codes[targets.positive] = targets.codes
    directions[targets.positive, targets.directions] = 9.0
    outputs = {
        "class": spread(targets.classes * 18 - 9),
        "box": spread(codes),
        "direction": spread(directions),
    }
    (found,) = TASK.detections(outputs, batch)
    # Several anchors describe an object; suppression leaves one.
    order = found.boxes[:, 0].argsort()
    torch.testing.assert_close(found.boxes[order], boxes[boxes[:, 0].argsort()], rtol=1e-4, atol=1e-4)
    assert found.labels[order].tolist() == labels[boxes[:, 0].argsort()].tolist()
    losses = TASK.loss(outputs, batch)
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)
    assert losses["direction"].item() < 1e-3


def test_a_sample_does_not_depend_on_its_batch_and_may_be_empty(outputs, batch):
    batch.boxes[1], batch.labels[1] = torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64)
    together = TASK.loss(outputs, batch)
    assert together["box"][1] == together["direction"][1] == 0
    alone = TASK.loss({name: value[:1] for name, value in outputs.items()}, batch.samples(0, 1))
    for name, value in alone.items():
        torch.testing.assert_close(together[name][:1], value, rtol=1e-5, atol=1e-6)


def test_unknown_velocity_teaches_nothing_and_divergence_shows(outputs, batch):
    for boxes in batch.boxes:
        boxes[:, 7:] = math.nan
    box = outputs["box"].detach().requires_grad_()
    TASK.loss(outputs | {"box": box}, batch)["box"].sum().backward()
    gradient = box.grad.view(3, 4, 9, 24, 20)
    assert gradient.isfinite().all()
    assert gradient[:, :, :7].any()
    assert not gradient[:, :, 7:].any()
    diverged = {name: value * math.nan for name, value in outputs.items()}
    assert TASK.loss(diverged, batch)["total"].isnan().all()
    assert [len(found.scores) for found in TASK.detections(diverged, batch)] == [0, 0, 0]
