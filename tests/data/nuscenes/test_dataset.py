from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from PIL import Image

from altermoma_ray.data.nuscenes.dataroot import read_picture, read_points
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

TOY = InputConfig(
    image_size=(48, 128),
    resize_test=0.32,
    resize_train=(0.3, 0.36),
    bottom_crop=(0.0, 0.1),
    sweeps=10,
    point_range=(-25.6, -25.6, -5.0, 25.6, 25.6, 3.0),
)
WIDE = InputConfig(**{**TOY.model_dump(), "point_range": (-1e4,) * 3 + (1e4,) * 3})


@pytest.fixture(scope="module")
def synthetic(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(synthetic_root), "v1.0-trainval", storage, progress=False)


@pytest.fixture(scope="module")
def real(real_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(real_nuscenes), "v1.0-mini", storage, progress=False)


def same(first, second) -> bool:
    return all(
        torch.equal(value, second.__dict__[name])
        for name, value in first.__dict__.items()
        if isinstance(value, torch.Tensor)
    )


def pixels_of(sample, camera: int, points: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Augmented lidar points to original pixels, pixels of ``images`` and depths, by the chain that a model uses."""
    undone = np.linalg.inv(sample.lidar_augmentation.double().numpy())
    to_camera = np.linalg.inv(sample.camera_to_lidar[camera].double().numpy())
    homogeneous = np.concatenate([points[:, :3].double().numpy(), np.ones((len(points), 1))], axis=1)
    seen = (homogeneous @ undone.T @ to_camera.T)[:, :3]
    original = seen @ sample.camera_intrinsics[camera].double().numpy().T
    original = original / original[:, 2:]
    augmented = original @ sample.image_augmentation[camera].double().numpy().T
    return original[:, :2], augmented[:, :2], seen[:, 2]


def check_content(index: Index, row: int, inputs: InputConfig) -> None:
    """The picture's content at a projected LiDAR point is the same before and after both augmentations."""
    plain = InputConfig(**{**inputs.model_dump(), "mean": (0, 0, 0), "std": (1, 1, 1)})
    before, after = [], []
    sample = NuScenesDataset(index, [row], plain, augment=True, seed=3)[0]
    record = index.record(row)
    for number, camera in enumerate(inputs.cameras):
        frame = record.cameras[camera]
        picture = read_picture(index.dataroot, frame.file, frame.width, frame.height)
        size = int(frame.width * inputs.resize_test), int(frame.height * inputs.resize_test)
        reference = np.asarray(picture.resize(size), dtype=float) / 255
        original, augmented, depth = pixels_of(sample, number, sample.points)
        height, width = inputs.image_size
        inside = (depth > 1) & (augmented > 2).all(1) & (augmented < np.array([width, height]) - 2).all(1)
        scaled = original * (np.array(size) / np.array([frame.width, frame.height]))
        inside &= (scaled > 0).all(1) & (scaled < size).all(1)
        u, v = scaled[inside].astype(int).T
        before.append(reference[v, u].mean(axis=1))
        u, v = augmented[inside].astype(int).T
        after.append(sample.images[number].numpy()[:, v, u].mean(axis=0))
    before, after = np.concatenate(before), np.concatenate(after)
    assert len(before) > 500
    assert np.corrcoef(before, after)[0, 1] > 0.9


def test_content_stays_under_the_points_that_see_it_synthetic(synthetic):
    for row in range(3):
        check_content(synthetic, row, TOY)


def test_content_stays_under_the_points_that_see_it_real(real):
    check_content(real, 0, InputConfig())


def test_the_real_keyframe_at_the_published_figures(real):
    batch = collate([NuScenesDataset(real, [0], InputConfig(), augment=False)[0]])
    assert batch.images.shape == (1, 6, 3, 256, 704)
    assert batch.points[0].shape[0] > 30000
    assert batch.points[0][:, 4].abs().max() == 0  # one sweep only
    assert batch.points[0][:, 3].max() > 1  # intensity stays on 0..255
    assert batch.boxes[0].shape[1] == 9
    assert len(batch.boxes[0]) == len(batch.labels[0]) > 40
    assert torch.isfinite(batch.boxes[0]).all()
    assert torch.equal(batch.lidar_augmentation[0], torch.eye(4))


@pytest.mark.parametrize("close", [1.0, 9.0])
def test_sweeps_agree_with_the_devkit(synthetic, synthetic_root, close):
    nusc = NuScenes("v1.0-trainval", str(synthetic_root), verbose=False)
    wide = InputConfig(**{**WIDE.model_dump(), "close_range": close})
    row = max(range(len(synthetic)), key=lambda row: len(synthetic.record(row).sweeps))
    count = len(synthetic.record(row).sweeps)
    assert count >= 1
    sample = NuScenesDataset(synthetic, [row], wide, augment=False)[0]
    cloud, lags = LidarPointCloud.from_file_multisweep(
        nusc, nusc.get("sample", sample.token), "LIDAR_TOP", "LIDAR_TOP", nsweeps=10, min_distance=close
    )
    points = sample.points.numpy()
    points = points[
        (np.abs(points[:, :2]) >= close).any(axis=1) | (points[:, 4] > 0)
    ]  # the devkit trims the keyframe too
    assert len(np.unique(points[:, 4])) == min(count, 9) + 1
    np.testing.assert_allclose(points[:, :4], cloud.points[:4].T, atol=1e-3)
    np.testing.assert_allclose(points[:, 4], lags[0], atol=1e-4)


def test_augmentation_moves_all_sweeps_together(synthetic):
    row = max(range(len(synthetic)), key=lambda row: len(synthetic.record(row).sweeps))
    plain = NuScenesDataset(synthetic, [row], WIDE, augment=False)[0]
    augmented = NuScenesDataset(synthetic, [row], WIDE, augment=True)[0]
    matrix = augmented.lidar_augmentation
    moved = plain.points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    assert (plain.points[:, 4] > 0).any()
    torch.testing.assert_close(augmented.points[:, :3], moved, atol=1e-3, rtol=0)
    assert torch.equal(augmented.points[:, 3:], plain.points[:, 3:])


def test_one_sweep_is_the_keyframe(synthetic):
    inputs = InputConfig(**{**TOY.model_dump(), "sweeps": 1})
    sample = NuScenesDataset(synthetic, [1], inputs, augment=False)[0]
    assert sample.points[:, 4].abs().max() == 0


def test_boxes_are_learnable_and_in_range(synthetic):
    for row in range(len(synthetic)):
        table = synthetic.record(row).boxes
        sample = NuScenesDataset(synthetic, [row], TOY, augment=False)[0]
        inside = (np.abs(table.boxes[:, :2]) < 25.6).all(axis=1)
        keep = inside & (table.labels >= 0) & (table.num_lidar_pts + table.num_radar_pts > 0)
        expected = np.nan_to_num(table.boxes[keep])
        np.testing.assert_allclose(sample.boxes, expected, atol=1e-5)
        np.testing.assert_array_equal(sample.labels, table.labels[keep])
    assert len(sample.boxes)


def test_boxes_that_no_sensor_hit_are_left_out(real):
    table = real.record(0).boxes
    hit = table.num_lidar_pts + table.num_radar_pts > 0
    wide = InputConfig(point_range=WIDE.point_range)
    sample = NuScenesDataset(real, [0], wide, augment=False)[0]
    assert len(sample.boxes) == (hit & (table.labels >= 0)).sum() == 65


def test_points_of_a_box_stay_inside_it_under_augmentation(synthetic):
    def inside(sample):
        boxes, points = sample.boxes.double(), sample.points.double()
        cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
        offset = points[None, :, :3] - boxes[:, None, :3]
        along = offset[..., 0] * cos[:, None] + offset[..., 1] * sin[:, None]
        across = offset[..., 1] * cos[:, None] - offset[..., 0] * sin[:, None]
        half = boxes[:, None, 3:6] / 2 * 1.0001
        return (
            (along.abs() < half[..., 0]) & (across.abs() < half[..., 1]) & (offset[..., 2].abs() < half[..., 2])
        ).sum(1)

    inputs = InputConfig(**{**WIDE.model_dump(), "sweeps": 1})
    plain = NuScenesDataset(synthetic, [0], inputs, augment=False)[0]
    augmented = NuScenesDataset(synthetic, [0], inputs, augment=True, seed=1)[0]
    assert not torch.allclose(plain.boxes, augmented.boxes)
    assert inside(plain).sum() > 20
    assert (inside(plain) - inside(augmented)).abs().max() <= 1


def test_augmentation_depends_on_seed_epoch_and_position_alone(synthetic):
    first = NuScenesDataset(synthetic, [0, 1, 0], TOY, augment=True, seed=5)
    second = NuScenesDataset(synthetic, [0, 1, 0], TOY, augment=True, seed=5)
    _ = second[1]
    assert same(first[0], second[0])
    assert not same(first[0], first[2])  # a repeated row is augmented anew
    second.set_epoch(1)
    assert not same(first[0], second[0])
    assert not same(first[0], NuScenesDataset(synthetic, [0], TOY, augment=True, seed=6)[0])


def test_evaluation_is_fixed(synthetic):
    first = NuScenesDataset(synthetic, [0], TOY, augment=False, seed=1)
    second = NuScenesDataset(synthetic, [0], TOY, augment=False, seed=2)
    second.set_epoch(4)
    assert same(first[0], second[0])


def test_collate_stacks_and_lists(synthetic):
    samples = [NuScenesDataset(synthetic, [row], TOY, augment=False)[0] for row in (0, 1)]
    batch = collate(samples)
    assert len(batch) == 2
    assert batch.tokens == [synthetic.record(0).token, synthetic.record(1).token]
    assert batch.images.shape == (2, 6, 3, 48, 128)
    assert batch.camera_to_lidar.shape == (2, 6, 4, 4)
    assert torch.equal(batch.points[1], samples[1].points)


@pytest.fixture
def damaged(real: Index, tmp_path: Path) -> Index:
    """The real keyframe with files of its own."""
    shutil.copytree(real.dataroot.path, tmp_path / "root", copy_function=shutil.copyfile)
    for path in [tmp_path / "root", *(tmp_path / "root").rglob("*")]:
        path.chmod(0o755)
    return Index(real.file, Location.parse(tmp_path / "root"))


def test_broken_lidar_files_are_named(damaged):
    name = damaged.record(0).lidar.file
    file = Path(damaged.dataroot.path) / name
    data = file.read_bytes()
    file.write_bytes(data[:-7])
    with pytest.raises(
        UserError, match=rf"LiDAR file .*{file.name[-20:]} has {len(data) - 7} bytes, .*copy it from nuScenes"
    ):
        read_points(damaged.dataroot, name)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="has 0 bytes"):
        NuScenesDataset(damaged, [0], InputConfig(), augment=False)[0]
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read .*pcd.bin .*which the tables name; copy it to the dataroot"):
        read_points(damaged.dataroot, name)


def test_broken_pictures_are_named(damaged):
    dataset = NuScenesDataset(damaged, [0], InputConfig(), augment=False)
    file = Path(damaged.dataroot.path) / damaged.record(0).cameras["CAM_BACK"].file
    data = file.read_bytes()
    for broken in (data[: len(data) // 2], b"not a picture", b""):
        file.write_bytes(broken)
        with pytest.raises(
            UserError, match=rf"picture .*{file.name[-20:]} is broken .*copy it from nuScenes again"
        ) as caught:
            dataset[0]
        assert "\n" not in str(caught.value)
    Image.new("RGB", (800, 450)).save(file)
    with pytest.raises(UserError, match="has 800x450 pixels, but the tables say 1600x900"):
        dataset[0]
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read .*jpg .*copy it to the dataroot"):
        dataset[0]
