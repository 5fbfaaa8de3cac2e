"""Boxes, projections and mirror images: by hand, and against KITTI's own labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altermoma_ray.data.kitti import geometry
from altermoma_ray.data.kitti.index import learned

CAMERA = np.array([[700.0, 0, 600, 45], [0, 700, 180, -0.3], [0, 0, 1, 0.005]])
BOXES = np.array([[2.0, 1.6, 15, 4, 1.8, 1.5, 0.3], [-6, 1.7, 30, 4.2, 1.7, 1.4, -2.0], [0, 1.5, 8, 1, 0.6, 1.7, 0.0]])


def test_corners_by_hand():
    along_x, along_z = np.array([[1.0, 2, 10, 4, 2, 1.5, 0.0], [1.0, 2, 10, 4, 2, 1.5, -math.pi / 2]])
    corners = geometry.box_corners(np.stack([along_x, along_z]))
    assert corners[0].min(0).tolist() == [-1, 0.5, 9]
    assert corners[0].max(0).tolist() == [3, 2, 11]
    np.testing.assert_allclose([corners[1].min(0), corners[1].max(0)], [[0, 0.5, 8], [2, 2, 12]], atol=1e-12)
    # The first two corners are the front: towards +x at 0, towards +z at -pi / 2.
    assert corners[0, :2, 0].tolist() == [3, 3]
    np.testing.assert_allclose(corners[1, :2, 2], [12, 12])
    assert (corners[:, :4, 1] == 2).all()


def test_points_project_by_hand():
    pixels, depth = geometry.project(np.array([[1.0, 2.0, 9.995]]), CAMERA)
    assert depth.tolist() == [10.0]
    np.testing.assert_allclose(pixels, [[(700 + 600 * 9.995 + 45) / 10, (1400 + 180 * 9.995 - 0.3) / 10]])


def test_mirroring_twice_changes_nothing():
    turned = geometry.mirror_boxes(geometry.mirror_boxes(BOXES))
    np.testing.assert_allclose(turned, BOXES, atol=1e-12)
    assert (np.abs(geometry.mirror_boxes(BOXES)[:, 6]) <= math.pi).all()
    points = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert (geometry.mirror_points(geometry.mirror_points(points)) == points).all()
    np.testing.assert_allclose(geometry.mirror_projection(geometry.mirror_projection(CAMERA, 1242), 1242), CAMERA)
    plane = np.array([0.02, -0.99, 0.01, 1.65])
    assert (geometry.mirror_plane(geometry.mirror_plane(plane)) == plane).all()


def test_a_mirrored_frame_projects_to_the_mirrored_picture():
    width = 1242.0
    straight = geometry.boxes_in_picture(BOXES, CAMERA)
    mirrored = geometry.boxes_in_picture(geometry.mirror_boxes(BOXES), geometry.mirror_projection(CAMERA, width))
    expected = np.stack([width - straight[:, 2], straight[:, 1], width - straight[:, 0], straight[:, 3]], 1)
    np.testing.assert_allclose(mirrored, expected)
    points = np.random.default_rng(0).normal(size=(9, 3))
    plane = np.array([0.02, -0.99, 0.01, 1.65])
    heights = points @ plane[:3] + plane[3]
    across = geometry.mirror_plane(plane)
    np.testing.assert_allclose(geometry.mirror_points(points) @ across[:3] + across[3], heights)


def test_a_resized_picture_has_resized_pixels():
    resized = geometry.resized_projection(CAMERA, 0.5, 0.25)
    expected = geometry.boxes_in_picture(BOXES, CAMERA) * [0.5, 0.25, 0.5, 0.25]
    np.testing.assert_allclose(geometry.boxes_in_picture(BOXES, resized), expected)


def test_projections_of_real_boxes_agree_with_their_2d_labels(real_index):
    overlaps = {}
    for row in range(len(real_index)):
        frame = real_index.frame(row)
        types = tuple(name for name in frame.labels.types if name != "DontCare")
        boxes, _ = learned(frame.labels, types)
        assert (frame.labels.truncation[: len(types)] == 0).all()
        for name, box, labelled in zip(
            types, geometry.boxes_in_picture(boxes, frame.projection), frame.labels.boxes_2d, strict=False
        ):
            low, high = np.maximum(box[:2], labelled[:2]), np.minimum(box[2:], labelled[2:])
            inside = np.prod(np.maximum(high - low, 0))
            areas = [np.prod(one[2:] - one[:2]) for one in (box, labelled)]
            overlaps[frame.name, name] = inside / (sum(areas) - inside)
    assert len(overlaps) == 6
    # The pedestrian's arm leaves the labelled box; the others agree to one or two pixels.
    assert min(overlaps.values()) > 0.85, overlaps
    assert min(overlap for (_, name), overlap in overlaps.items() if name != "Pedestrian") > 0.93, overlaps


def test_an_unturned_or_swapped_box_would_be_seen(real_index):
    """The agreement above is no accident: a heading of another sense misses the labels."""
    frame = real_index.frame(real_index.names().index("000002"))
    boxes, _ = learned(frame.labels, ("Car",))
    (labelled,) = frame.labels.boxes_2d[[name == "Car" for name in frame.labels.types]]
    wrong = boxes.copy()
    wrong[:, 6] += math.pi / 2
    right, off = (np.abs(geometry.boxes_in_picture(one, frame.projection) - labelled).max() for one in (boxes, wrong))
    assert right < 1
    assert off > 20


@pytest.mark.parametrize("row", range(3))
def test_real_boxes_stand_on_real_points(real_index, row):
    from altermoma_ray.data.kitti.dataroot import read_points

    frame = real_index.frame(row)
    nearest = int(np.argmin(np.where(frame.labels.locations[:, 2] > 0, frame.labels.locations[:, 2], np.inf)))
    boxes, _ = learned(frame.labels, (frame.labels.types[nearest],))
    if boxes[0, 2] > 40:
        pytest.skip("the frame's nearest object is too far for many points")
    points = geometry.transform(read_points(real_index.dataroot, frame.name), frame.to_rectified)
    x, y, z, length, width, height, turn = boxes[0]
    ahead = math.cos(turn) * (points[:, 0] - x) - math.sin(turn) * (points[:, 2] - z)
    across = math.sin(turn) * (points[:, 0] - x) + math.cos(turn) * (points[:, 2] - z)
    up = y - points[:, 1]
    inside = (np.abs(ahead) < length / 2) & (np.abs(across) < width / 2) & (up > 0) & (up < height)
    assert inside.sum() > 100
