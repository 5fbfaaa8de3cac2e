"""LiDAR files of another layout are recognised by their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from altermoma_ray.cli import Parser, add_reading_options, reading_of
from altermoma_ray.data.nuscenes.clouds import decode_points
from altermoma_ray.data.nuscenes.dataroot import check_files, read_points
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

FILE = Location.parse("/data/a.bin")
XYZI = ("x", "y", "z", "intensity")


@pytest.fixture(scope="module")
def cloud(synthetic_root: Path) -> np.ndarray:
    """[P, 5] of nuScenes' layout; P divides by 60."""
    points = np.fromfile(min(synthetic_root.glob("samples/LIDAR_TOP/*")), "<f4").reshape(-1, 5)
    return points[: len(points) // 60 * 60]


def decoded(points: np.ndarray, columns: tuple[str, ...] | None = None) -> np.ndarray:
    return decode_points(FILE, points.astype("<f4").tobytes(), columns)


def refusal(points: np.ndarray, columns: tuple[str, ...] | None = None) -> str:
    with pytest.raises(UserError) as refused:
        decoded(points, columns)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_published_layout_is_read_as_it_is(cloud):
    assert np.array_equal(decoded(cloud), cloud)


@pytest.mark.parametrize("count", [5, 60, None])
def test_four_columns_that_divide_by_five_are_refused_with_what_was_found(cloud, count):
    said = refusal(cloud[:count, :4])
    assert "/data/a.bin does not hold x,y,z,intensity,ring: column 5 (ring) holds" in said
    assert said.endswith("; this looks like 4 columns: --lidar-columns x,y,z,intensity")
    assert np.array_equal(decoded(cloud[:count, :4], XYZI)[:, :4], cloud[:count, :4])


def test_a_time_for_the_ring_and_after_it_are_told_apart(cloud):
    lag = np.linspace(-0.05, 0, len(cloud))[:, None]
    assert refusal(np.hstack([cloud[:, :4], lag])).endswith("--lidar-columns x,y,z,intensity,_")
    assert refusal(np.hstack([cloud, lag])).endswith("--lidar-columns x,y,z,intensity,ring,time")


def test_numbers_of_another_unit_or_type_are_refused(cloud):
    bright, far = cloud.copy(), cloud.copy()
    bright[:, 3] *= 257
    far[:, :3] *= 1000
    assert "column 4 (intensity) holds" in refusal(bright)
    assert refusal(bright).endswith("or do without them: --lidar-columns x,y,z,_,ring")
    assert "not metres within 1000 of the sensor" in refusal(far)
    assert not decoded(bright, ("x", "y", "z", "_", "ring"))[:, 3].any()
    with pytest.raises(UserError, match=r"does not hold x,y,z,intensity,ring: column 5 \(ring\) holds"):
        decode_points(FILE, cloud.astype("<f8").tobytes())


def test_points_without_coordinates_are_left_out(cloud):
    raw = cloud.copy()
    raw[::3, 1] = np.nan
    raw[1::3, 0] = np.inf
    assert np.array_equal(decoded(raw), cloud[2::3])
    raw[:, 2] = np.nan
    assert "100% of its points have NaN or infinite coordinates" in refusal(raw)
    raw = cloud.copy()
    raw[7, 3] = np.nan
    assert "column 4 (intensity) holds nan" in refusal(raw)


@pytest.mark.parametrize("points", [np.zeros((1, 5)), np.array([[1, 2, 0, 255, 127]]), np.zeros((60, 5))])
def test_nearly_empty_clouds_are_fine(points):
    assert decoded(points).shape == points.shape


def test_stated_columns_may_stand_in_any_order(cloud):
    shuffled = cloud[:, [4, 3, 2, 1, 0]]
    assert np.array_equal(decoded(shuffled, ("ring", "intensity", "z", "y", "x")), cloud)
    bare = decoded(shuffled, ("-", "_", "z", "y", "x"))
    assert np.array_equal(bare[:, :3], cloud[:, :3])
    assert not bare[:, 3:].any()


def test_stated_columns_are_held_against_the_file_too(cloud):
    assert "no whole number of 28-byte points; copy it from nuScenes again, or correct --lidar-columns" in refusal(
        cloud[:6], ("x", "y", "z", "intensity", "_", "_", "_")
    )
    said = refusal(cloud, XYZI)
    assert "does not hold x,y,z,intensity: column 4 (intensity) holds" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,intensity", "LiDAR columns need x, y and z, but z is missing; name all columns"),
        ("x,y,z,x", "column 'x' occurs twice; name each column once, and _ what is to be ignored"),
        ("x,y,z,colour", "unknown column 'colour'; choose out of x, y, z, intensity, ring, time, and _ for any other"),
        ("", "unknown column ''"),
    ],
)
def test_columns_that_cannot_be_are_one_line(text, message):
    parser = Parser()
    add_reading_options(parser)
    with pytest.raises(UserError) as refused:
        parser.parse_args(["--lidar-columns", text])
    assert str(refused.value).startswith(f"argument --lidar-columns: {message}")


def test_options_say_how_to_read():
    parser = Parser()
    add_reading_options(parser)
    assert reading_of(parser.parse_args([])).is_default
    assert reading_of(parser.parse_args(["--lidar-columns", "x,y,z,intensity,ring"])).is_default
    reading = reading_of(parser.parse_args(["--lidar-columns", "x, y,z,_,_", "--follow-links"]))
    assert (reading.lidar_columns, reading.follow_links) == (("x", "y", "z", "_", "_"), True)


def test_files_of_another_layout_are_found_at_the_start(dataroot, cloud, capsys):
    root = Location.parse(dataroot)
    names = sorted(file.relative_to(dataroot).as_posix() for file in dataroot.glob("s*/LIDAR_TOP/*"))
    check_files(root, [], names)
    for name in (name for name in names if name.startswith("sweeps")):  # a set whose sweeps come from elsewhere
        cloud[:, :4].tofile(dataroot / name)
    with pytest.raises(UserError, match=r"sweeps/LIDAR_TOP.* looks like 4 columns: --lidar-columns x,y,z,intensity$"):
        check_files(root, [], names)
    for name in names:
        (cloud / [1, 1, 1, 255, 1]).astype("<f4").tofile(dataroot / name)
    check_files(root, [], names)
    assert "LiDAR intensities lie in 0..1; nuScenes has 0..255" in " ".join(capsys.readouterr().err.split())


def test_real_points_are_no_false_alarm(real_nuscenes):
    root = Location.parse(real_nuscenes)
    files = [file.relative_to(real_nuscenes).as_posix() for file in real_nuscenes.glob("s*/LIDAR_TOP/*.bin")]
    check_files(root, [], files)
    assert all(len(read_points(root, file)) > 20_000 for file in files)
