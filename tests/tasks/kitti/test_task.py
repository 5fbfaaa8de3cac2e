from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altermoma_ray.data.kitti.labels import format_labels, parse_labels
from altermoma_ray.models.configurations.avod_fpn import avod_configuration
from altermoma_ray.tasks.kitti import box_code
from altermoma_ray.tasks.kitti.detections import labels_of
from altermoma_ray.tasks.kitti.task import LOSSES, KittiTask
from tests.kitti_frames import make_batch

TOY = avod_configuration("avod-fpn-toy")
TASK = KittiTask(TOY)
SURE = 12.0


def perfect(batch):
    """Outputs whose proposals and anchors are the objects turned to the next right angle, with right answers."""
    outputs = {name: [] for name in ("anchors", "objectness", "offsets", "proposals", "classes", "corners", "angles")}
    for boxes, labels, plane in zip(batch.boxes, batch.labels, batch.planes, strict=True):
        proposals = box_code.axis_aligned(boxes)
        start = box_code.encode(box_code.boxes_of_proposals(proposals), plane)
        outputs["anchors"].append(proposals)
        outputs["objectness"].append(torch.tensor([[0.0, SURE]]).repeat(len(boxes), 1))
        outputs["offsets"].append(torch.zeros(len(boxes), 6))
        outputs["proposals"].append(proposals)
        outputs["classes"].append(SURE * torch.nn.functional.one_hot(1 + labels, 4).float())
        outputs["corners"].append(box_code.encode(boxes, plane) - start)
        outputs["angles"].append(torch.stack((boxes[:, 6].cos(), boxes[:, 6].sin()), 1))
    return outputs


@pytest.mark.parametrize("seed", range(3))
def test_the_ground_truth_decodes_to_itself(seed):
    batch = make_batch(TOY.inputs, counts=(6, 4), seed=seed)
    found = TASK.decode(perfect(batch), batch)
    assert list(found) == batch.frames
    for boxes, labels, one in zip(batch.boxes, batch.labels, found.values(), strict=True):
        order = np.argsort(one.locations[:, 2])  # the objects come from near to far
        assert [one.types[row] for row in order] == [TOY.inputs.types[label] for label in labels]
        assert np.allclose(one.locations[order], boxes[:, :3], atol=1e-3)
        assert np.allclose(one.sizes[order], boxes[:, [5, 4, 3]], atol=1e-3)
        turn = (one.rotation_y[order] - boxes[:, 6].numpy() + math.pi) % (2 * math.pi) - math.pi
        assert np.abs(turn).max() < 1e-3
        assert (one.alpha == -10).all()
        assert one.scores.min() > 0.99
        left, top, right, bottom = one.boxes_2d.T
        assert ((left >= 0) & (top >= 0) & (right <= 1242) & (bottom <= 375) & (left < right) & (top < bottom)).all()


def test_results_can_be_written_and_read():
    batch = make_batch(TOY.inputs)
    one = TASK.decode(perfect(batch), batch)["000000"]
    again = parse_labels(format_labels(one), "000000.txt", scored=True)
    assert again.types == one.types
    assert np.allclose(again.locations, one.locations, atol=0.01)


def test_losses_of_right_answers():
    batch = make_batch(TOY.inputs, counts=(5, 0))
    losses = TASK.loss(perfect(batch), batch)
    assert list(losses) == [*LOSSES, "total"]
    assert all(loss.shape == (2,) and loss.isfinite().all() for loss in losses.values())
    assert torch.allclose(losses["total"], sum(losses[name] for name in LOSSES))
    for name in ("anchors", "box", "angle"):
        assert losses[name].abs().max() < 1e-6
    # A smoothed label costs a little even where the answer is right.
    assert losses["objectness"][0] < 0.02
    assert losses["objectness"][1] == 0  # no anchor, no loss


def test_losses_by_hand():
    batch = make_batch(TOY.inputs, counts=(3,))
    outputs = perfect(batch)
    far = torch.tensor([[0.0, 1.65, 39.0, 1.0, 1.0, 1.0]])  # background
    for name in ("anchors", "proposals"):
        outputs[name][0] = torch.cat((outputs[name][0], far))
    for name, width in (("objectness", 2), ("offsets", 6), ("classes", 4), ("corners", 10), ("angles", 2)):
        outputs[name][0] = torch.cat((outputs[name][0], torch.zeros(1, width)))
        outputs[name][0] = torch.zeros_like(outputs[name][0]) if name in ("objectness", "classes") else outputs[name][0]
    outputs["offsets"][0][0, 0] = 3.0
    outputs["corners"][0][1, 9] += 0.1
    outputs["angles"][0][2] += torch.tensor([2.0, 0.0])
    losses = {name: float(loss) for name, loss in TASK.loss(outputs, batch).items()}
    # Undecided answers cost the logarithm of their number; smooth L1 is a sum over numbers and a mean over boxes.
    assert losses["objectness"] == pytest.approx(math.log(2), rel=1e-5)
    assert losses["classification"] == pytest.approx(math.log(4), rel=1e-5)
    assert losses["anchors"] == pytest.approx(5 * 2.5 / 3, rel=1e-4)
    assert losses["box"] == pytest.approx(5 * 0.005 / 3, rel=1e-2)
    assert losses["angle"] == pytest.approx(1.5 / 3, rel=1e-4)


def test_losses_fall_while_a_frame_is_learned():
    torch.manual_seed(0)
    model, batch = TOY.build().train(), make_batch(TOY.inputs, counts=(3,), points=120)
    optimizer, history = torch.optim.Adam(model.parameters(), lr=4e-3), []
    for _ in range(16):
        optimizer.zero_grad()
        losses = TASK.loss(model(batch), batch)
        losses["total"].mean().backward()
        optimizer.step()
        history.append(losses)
    first, last = (
        {name: sum(float(one[name].detach()) for one in part) / 3 for name in losses}
        for part in (history[:3], history[-3:])
    )
    assert last["total"] < 0.6 * first["total"]
    assert last["objectness"] < 0.7 * first["objectness"]
    assert last["anchors"] < 0.8 * first["anchors"]


def test_detections_off_the_picture_and_of_low_scores_are_not_written():
    boxes = torch.tensor(
        [
            [0.0, 1.65, 20, 4, 2, 1.5, 0],
            [30.0, 1.65, 15, 4, 2, 1.5, 0],  # to the right of the picture
            [0.0, 1.65, 20, 4, 2, 1.5, 0],
            [0.0, float("nan"), 20, 4, 2, 1.5, 0],
            [-12.5, 1.65, 15, 4, 2, 1.5, 0],  # cut by the picture's edge
        ]
    )
    batch = make_batch(TOY.inputs, counts=(0,))
    found = labels_of(
        boxes,
        torch.tensor([0.9, 0.8, 0.05, 0.7, 0.6]),
        ["Car"] * 5,
        projection=batch.projection_original[0],
        size=batch.image_sizes[0],
        least_score=0.1,
    )
    assert found.scores == pytest.approx([0.9, 0.6])
    assert found.boxes_2d[1, 0] == 0
    assert found.locations[1].tolist() == pytest.approx([-12.5, 1.65, 15], abs=1e-5)


def test_a_better_box_suppresses_its_neighbour_of_another_type():
    batch = make_batch(TOY.inputs, counts=(1,))
    outputs = {name: [torch.cat((part[0], part[0]))] for name, part in perfect(batch).items()}
    outputs["classes"][0][1] = torch.tensor([0.0, 0, 5, 0])
    assert TASK.decode(outputs, batch)["000000"].types == ("Car",)


def test_a_diverged_network_detects_nothing():
    batch = make_batch(TOY.inputs, counts=(2,))
    outputs = {name: [torch.full_like(part[0], float("nan"))] for name, part in perfect(batch).items()}
    assert len(TASK.decode(outputs, batch)["000000"]) == 0


def test_columns_are_of_moderate_difficulty():
    names = [metric.name for metric in TASK.metrics if metric.is_column]
    assert names[:3] == ["ap-3d", "ap-bev", "ap-3d/car/moderate"]
    assert len(names) == 2 + 2 * 3
    assert len({metric.name for metric in TASK.metrics}) == len(TASK.metrics) == 4 + 2 * 2 * 3 * 3


def test_cells_under_an_object_are_occupied():
    batch = make_batch(TOY.inputs, counts=(1, 0))
    batch.boxes[0] = torch.tensor([[2.0, 1.6, 20.0, 8.0, 1.0, 1.5, -math.pi / 4]])
    (taken, empty), stride = TASK.occupied(batch), TOY.proposals.stride
    assert not empty.any()
    (x0, x1, z0, z1) = TASK.map_extent
    assert taken.shape == (round((x1 - x0) / stride), round((z1 - z0) / stride))

    def at(x, z):
        return bool(taken[int((x - x0) / stride), int((z - z0) / stride)])

    # The heading -45° leads to the right and away from the camera.
    assert at(4.5, 22.5)
    assert at(-0.5, 17.5)
    assert not at(4.5, 17.5)
    assert not at(-0.5, 22.5)
    assert 20 <= taken.sum() <= 48  # 8 m² in cells of 0.25 m², with a rim
