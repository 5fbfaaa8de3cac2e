"""Samples: points, pictures, boxes and their mirror images belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from altermoma_ray.data.kitti import geometry
from altermoma_ray.data.kitti.bev import bev_map
from altermoma_ray.data.kitti.calibration import DEFAULT_PLANE
from altermoma_ray.data.kitti.dataset import KittiDataset, collate, with_colour_noise
from altermoma_ray.data.kitti.index import open_index
from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.storage import Location

TYPES = ("Car", "Pedestrian", "Cyclist")
SMALL = KittiInputs(image_size=(48, 160), types=TYPES, colour_jitter=False)


@pytest.fixture(scope="module")
def index(small_kitti, tmp_path_factory):
    return open_index(Location.parse(small_kitti), Location.parse(tmp_path_factory.mktemp("storage")))


def flipped(index, inputs, row):
    """The same frame as it is, and flipped."""
    dataset = KittiDataset(index, [row], inputs, augment=True)
    plain = KittiDataset(index, [row], inputs, augment=False)[0]
    for epoch in range(20):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        if not torch.equal(sample.image, plain.image):
            return plain, sample
    raise AssertionError("in 20 epochs the frame was never flipped")


def test_a_sample_has_the_shapes_and_figures_of_its_inputs(index):
    batch = collate([KittiDataset(index, [0, 3], SMALL, augment=False)[position] for position in range(2)])
    assert batch.frames == ["000000", "000003"]
    assert batch.images.shape == (2, 3, 48, 160)
    assert batch.bev.shape == (2, 6, 700, 800)
    assert batch.image_sizes.tolist() == [[94, 312]] * 2
    assert all(points.shape[1] == 4 for points in batch.points)
    np.testing.assert_allclose(batch.planes, [DEFAULT_PLANE] * 2)
    assert {tensor.dtype for tensor in (batch.images, batch.bev, batch.planes, *batch.points, *batch.boxes)} == {
        torch.float32
    }
    # The mean is subtracted channel by channel, and nothing is divided.
    restored = batch.images[0] + torch.tensor(SMALL.image_mean)[:, None, None]
    picture = Image.open(index.dataroot.join("training", "image_2", "000000.png").path).resize((160, 48), 2)
    assert torch.allclose(restored, torch.from_numpy(np.array(picture)).permute(2, 0, 1).float(), atol=1e-3)


def test_boxes_are_of_the_types_to_learn_and_inside_the_area(index):
    near = SMALL.model_copy(update={"types": ("Pedestrian", "Car"), "z_range": (0.0, 20.0)})
    for row in range(len(index)):
        sample = KittiDataset(index, [row], near, augment=False)[0]
        labels = index.labels(row)
        expected = [
            near.types.index(name)
            for name, place in zip(labels.types, labels.locations, strict=True)
            if name in near.types and place[2] < 20
        ]
        assert sample.labels.tolist() == expected
        assert sample.boxes.shape == (len(expected), 7)
        assert (sample.points[:, 2] < 20).all()


def test_points_lie_in_picture_and_area(index):
    sample = KittiDataset(index, [1], SMALL, augment=False)[0]
    pixels, depth = geometry.project(sample.points.numpy(), sample.projection_original.numpy().astype(np.float64))
    assert (depth > 0).all()
    assert (pixels > -0.01).all()
    assert (pixels < (312.01, 94.01)).all()
    assert len(sample.points) > 200
    # The other projection leads to the resized picture.
    resized, _ = geometry.project(sample.points.numpy(), sample.projection.numpy().astype(np.float64))
    np.testing.assert_allclose(resized, pixels * (160 / 312, 48 / 94), rtol=1e-4)


def test_points_that_no_picture_shows_are_dropped(real_index):
    sample = KittiDataset(real_index, [0], KittiInputs(), augment=False)[0]
    every = real_index.dataroot.join("training", "velodyne", f"{sample.frame}.bin").size() // 16
    # Four fifths of a turn are beside or behind the picture.
    assert 0.1 * every < len(sample.points) < 0.25 * every
    assert (sample.points[:, 2] > 0).all()


def test_a_flipped_frame_is_its_mirror_image(index):
    for row in range(len(index)):
        plain, mirrored = flipped(index, SMALL, row)
        assert torch.equal(mirrored.image, plain.image.flip(2))
        assert torch.equal(mirrored.points[:, 0], -plain.points[:, 0])
        assert torch.equal(mirrored.points[:, 1:], plain.points[:, 1:])
        # Each box stays in its place of the picture, mirrored; so does each point.
        for name, width in (("projection", 160), ("projection_original", 312)):
            before, after = (
                geometry.boxes_in_picture(
                    one.boxes.numpy().astype(np.float64), getattr(one, name).numpy().astype(np.float64)
                )
                for one in (plain, mirrored)
            )
            np.testing.assert_allclose(after[:, [2, 0]], width - before[:, [0, 2]], atol=0.01)
        again = geometry.mirror_boxes(mirrored.boxes.numpy())
        np.testing.assert_allclose(again, plain.boxes, atol=1e-6)
        expected = bev_map(mirrored.points.numpy(), geometry.mirror_plane(index.frame(row).plane), SMALL)
        assert (mirrored.bev.numpy() == expected).all()
        assert mirrored.bev.sum() == pytest.approx(plain.bev.sum().item(), rel=0.02)


def test_draws_follow_from_seed_epoch_and_row_alone(index):
    inputs = SMALL.model_copy(update={"colour_jitter": True})

    def image(seed, epoch, rows, position):
        dataset = KittiDataset(index, rows, inputs, augment=True, seed=seed)
        dataset.set_epoch(epoch)
        return dataset[position].image

    first = [image(0, epoch, [0, 1, 2], 2) for epoch in range(6)]
    assert all(torch.equal(one, image(0, epoch, [2], 0)) for epoch, one in enumerate(first))
    assert len({one.sum().item() for one in first}) > 2
    assert any(not torch.equal(one, image(1, epoch, [2], 0)) for epoch, one in enumerate(first))


def test_augmentation_can_be_left_out(index):
    still = SMALL.model_copy(update={"flip": False})
    plain = KittiDataset(index, [0], still, augment=False)[0].image
    dataset = KittiDataset(index, [0], still, augment=True)
    for epoch in range(8):
        dataset.set_epoch(epoch)
        assert torch.equal(dataset[0].image, plain)


def test_colour_noise_moves_all_pixels_alike_along_the_main_colours():
    random = np.random.default_rng(0)
    brightness = random.normal(120, 30, (20, 30, 1)).clip(40, 200)
    image = (brightness + random.normal(0, 2, (20, 30, 3))).astype(np.float32)
    moved = with_colour_noise(image, np.array([0.0, 0.0, 0.1])) - image
    # One colour for all pixels: a tenth of a standard deviation of the brightness, in each of three channels.
    assert np.ptp(moved.reshape(-1, 3), axis=0).max() < 1e-3
    np.testing.assert_allclose(np.abs(moved).mean((0, 1)), 0.1 * brightness.std(), rtol=0.05)
    assert (with_colour_noise(image, np.array([0.0, 0.0, 90.0])) <= 255).all()
