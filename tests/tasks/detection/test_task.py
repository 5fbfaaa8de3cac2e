from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.models.heads.transfusion import TransFusionHead
from altermoma_ray.tasks.detection.boxes import encode_boxes
from altermoma_ray.tasks.detection.iou import iou_3d
from altermoma_ray.tasks.detection.task import DetectionTask

CONFIG = configuration("bevfusion-mit-toy").head.model_copy(
    update={"proposals": 12, "bev_size": (24, 20), "cell_size": (1.0, 1.2), "origin": (-12.0, -12.0), "dropout": 0.0}
)
CHANNELS = 8


def make_batch(boxes, labels) -> Batch:
    count = len(boxes)
    return Batch(
        tokens=[f"sample-{number}" for number in range(count)],
        images=torch.zeros(count, 1, 3, 8, 8),
        points=[torch.zeros(0, 5)] * count,
        camera_intrinsics=torch.eye(3).expand(count, 1, 3, 3),
        camera_to_lidar=torch.eye(4).expand(count, 1, 4, 4),
        image_augmentation=torch.eye(3).expand(count, 1, 3, 3),
        lidar_augmentation=torch.eye(4).expand(count, 4, 4),
        boxes=boxes,
        labels=labels,
    )


def random_boxes(count, seed):
    random = torch.Generator().manual_seed(seed)

    def uniform(low, high, columns):
        return low + (high - low) * torch.rand(count, columns, generator=random)

    boxes = torch.cat(
        (uniform(-11, 11, 2), uniform(-1, 1, 1), uniform(0.6, 4, 3), uniform(-3, 3, 1), uniform(-5, 5, 2)), dim=1
    )
    return boxes, torch.randint(0, 10, (count,), generator=random)


@pytest.fixture
def batch() -> Batch:
    boxes, labels = zip(*(random_boxes(count, count) for count in (4, 1, 6)), strict=True)
    return make_batch(list(boxes), list(labels))


@pytest.fixture
def outputs(batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return TransFusionHead(CONFIG, CHANNELS).eval()(torch.randn(len(batch), CHANNELS, *CONFIG.bev_size))


def test_losses_against_the_formulas(outputs, batch):
    task = DetectionTask(CONFIG)
    targets, losses = task.targets(outputs, batch), task.loss(outputs, batch)
    weights = [1.0] * 8 + [0.2] * 2
    for n in range(3):
        objects = len(batch.boxes[n])
        matched = [p for p in range(12) if targets.classes[n, p].any()]
        assert len(matched) == objects
        predicted = torch.cat([outputs[key][n] for key in ("center", "height", "dim", "rot", "vel")]).tolist()
        box = sum(abs(predicted[c][p] - targets.codes[n, p, c].item()) * weights[c] for p in matched for c in range(10))
        assert losses["box"][n].item() == pytest.approx(0.25 * box / objects, rel=1e-4)
        classification = 0.0
        for p, k in np.ndindex(12, 10):
            probability = 1 / (1 + math.exp(-outputs["heatmap"][n, k, p].item()))
            if targets.classes[n, p, k]:
                classification -= 0.25 * (1 - probability) ** 2 * math.log(probability)
            else:
                classification -= 0.75 * probability**2 * math.log(1 - probability)
        assert losses["classification"][n].item() == pytest.approx(classification / objects, rel=1e-4)
    parts = losses["heatmap"] + losses["classification"] + losses["box"]
    torch.testing.assert_close(losses["total"], parts)


def test_matched_codes_are_the_objects(outputs, batch):
    task = DetectionTask(CONFIG)
    targets = task.targets(outputs, batch)
    for n in range(3):
        taken = targets.classes[n].any(dim=1)
        labels, codes = targets.classes[n][taken].argmax(dim=1), targets.codes[n][taken]
        expected = encode_boxes(batch.boxes[n], task.grid)
        rows = [(expected - code).abs().sum(dim=1).argmin().item() for code in codes]
        assert sorted(rows) == list(range(len(expected)))
        torch.testing.assert_close(codes, expected[rows], rtol=1e-4, atol=1e-4)
        assert labels.tolist() == batch.labels[n][rows].tolist()


def test_heatmap_peaks_at_the_objects(outputs, batch):
    heatmap = DetectionTask(CONFIG).targets(outputs, batch).heatmap
    for n in range(3):
        cells = {
            (int(label), int(x + 12), int((y + 12) / 1.2))
            for (x, y), label in zip(batch.boxes[n][:, :2].tolist(), batch.labels[n], strict=True)
        }
        assert {tuple(cell) for cell in (heatmap[n] == 1).nonzero().tolist()} == cells


def test_a_sample_does_not_depend_on_its_batch(outputs, batch):
    task = DetectionTask(CONFIG)
    together = task.loss(outputs, batch)
    for n in range(3):
        alone = task.loss({name: value[n : n + 1] for name, value in outputs.items()}, batch.samples(n, n + 1))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][n : n + 1], value, rtol=1e-5, atol=1e-6)


def test_unknown_velocity_teaches_nothing(outputs, batch):
    task = DetectionTask(CONFIG)
    batch.boxes[0][:, 7:] = math.nan
    outputs = {name: value.detach() for name, value in outputs.items()}
    outputs["vel"].requires_grad_()
    losses = task.loss(outputs, batch)
    losses["total"].sum().backward()
    assert losses["total"].isfinite().all()
    assert not outputs["vel"].grad[0].any()
    assert outputs["vel"].grad[1].any()


def test_objects_off_the_map_and_empty_samples(outputs):
    box = torch.tensor([[30.0, 0, 0, 4, 2, 1.5, 0, 0, 0]])
    batch = make_batch([box, torch.zeros(0, 9), torch.zeros(0, 9)], [torch.tensor([0])] + [torch.zeros(0).long()] * 2)
    task = DetectionTask(CONFIG)
    losses = task.loss(outputs, batch)
    assert not task.targets(outputs, batch).heatmap.any()
    assert losses["total"].isfinite().all()
    assert losses["box"].tolist() == [0, 0, 0]


def test_a_diverged_network_has_a_loss_that_is_not_finite(outputs, batch):
    outputs = {name: value * math.nan if value.is_floating_point() else value for name, value in outputs.items()}
    assert DetectionTask(CONFIG).loss(outputs, batch)["total"].isnan().all()


def perfect_outputs(task, boxes, labels):
    """What a head would say that knows the objects."""
    code = encode_boxes(boxes.double(), task.grid, task.config.height).float().T[None]
    one_hot = torch.nn.functional.one_hot(labels, 10).T[None].float()
    return {
        "center": code[:, :2],
        "height": code[:, 2:3],
        "dim": code[:, 3:6],
        "rot": code[:, 6:8],
        "vel": code[:, 8:],
        "heatmap": one_hot * 8 - 4,
        "query_heatmap_score": one_hot * torch.linspace(0.2, 0.9, len(boxes)),
        "query_labels": labels[None],
    }


def test_decoding_inverts_the_code_and_sorts_by_score():
    task = DetectionTask(CONFIG)
    boxes, labels = random_boxes(5, 0)
    outputs = perfect_outputs(task, boxes, labels)
    (found,) = task.detections(outputs, make_batch([boxes], [labels]))
    torch.testing.assert_close(found.boxes, boxes.flip(0), rtol=1e-4, atol=1e-4)
    assert found.labels.tolist() == labels.flip(0).tolist()
    torch.testing.assert_close(found.scores, torch.linspace(0.9, 0.2, 5) * torch.tensor(4.0).sigmoid())
    (best,) = DetectionTask(CONFIG, max_detections=2).detections(outputs, make_batch([boxes], [labels]))
    torch.testing.assert_close(best.boxes, found.boxes[:2])


@pytest.mark.parametrize("height", ["bottom", "centre", "top"])
def test_truth_in_its_convention_decodes_to_itself_and_costs_nothing(height):
    task = DetectionTask(CONFIG.model_copy(update={"height": height}))
    boxes, labels = random_boxes(5, 0)
    batch = make_batch([boxes], [labels])
    outputs = perfect_outputs(task, boxes, labels) | {"dense_heatmap": torch.zeros(1, 10, 24, 20)}
    (found,) = task.detections(outputs, batch)
    torch.testing.assert_close(found.boxes, boxes.flip(0), rtol=1e-4, atol=1e-4)
    assert task.loss(outputs, batch)["box"].item() == 0
    targets = task.targets(outputs, batch)
    assert targets.classes[0].argmax(dim=1).tolist() == labels.tolist()
    assert targets.regressed.all()


def test_the_matching_sees_boxes_where_they_are(monkeypatch):
    overlaps = []

    def measured(first, second):
        overlaps.append(iou_3d(first, second))
        return overlaps[-1]

    monkeypatch.setattr("altermoma_ray.tasks.detection.matching.iou_3d", measured)
    boxes, labels = random_boxes(5, 0)
    for said, read in (("top", "top"), ("top", "centre")):
        outputs = perfect_outputs(DetectionTask(CONFIG.model_copy(update={"height": said})), boxes, labels)
        task = DetectionTask(CONFIG.model_copy(update={"height": read}))
        task.targets(outputs | {"dense_heatmap": torch.zeros(1, 10, 24, 20)}, make_batch([boxes], [labels]))
    right, wrong = (np.diag(found) for found in overlaps)
    np.testing.assert_allclose(right, 1, atol=1e-4)
    np.testing.assert_allclose(wrong, 1 / 3, atol=1e-4)  # half a height apart


def test_decoding_drops_what_lies_too_far_out():
    task = DetectionTask(CONFIG)
    boxes, labels = random_boxes(3, 0)
    boxes[0, 0], boxes[1, 2] = 61.3, -10.1
    (found,) = task.detections(perfect_outputs(task, boxes, labels), make_batch([boxes], [labels]))
    torch.testing.assert_close(found.boxes, boxes[2:], rtol=1e-4, atol=1e-4)


def test_one_sample_can_be_learned_by_heart():
    torch.manual_seed(0)
    head, task = TransFusionHead(CONFIG, CHANNELS), DetectionTask(TransFusionHeadConfig(**CONFIG.model_dump()))
    boxes, labels = random_boxes(3, 1)
    batch, features = make_batch([boxes], [labels]), torch.randn(1, CHANNELS, *CONFIG.bev_size)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    first = None
    for _ in range(250):
        loss = task.loss(head(features), batch)["total"].mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first
    (found,) = task.detections(head(features), batch)
    for box, label in zip(boxes, labels, strict=True):
        same = [row for row in range(len(found.scores)) if found.labels[row] == label and found.scores[row] > 0.5]
        distance, row = min(((found.boxes[row, :2] - box[:2]).norm().item(), row) for row in same)
        assert distance < 0.5
        torch.testing.assert_close(found.boxes[row, 3:6], box[3:6], rtol=0.15, atol=0.1)
