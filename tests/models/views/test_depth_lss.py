from __future__ import annotations

import numpy as np
import torch

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.views.depth_lss import DepthLss, grid_cell, make_frustum, paint_depth, place_frustum, splat


def test_frustum_has_the_published_corners():
    frustum = make_frustum((256, 704), (1.0, 60.0, 0.5))
    assert frustum.shape == (118, 32, 88, 3)
    assert frustum[0, 0, 0].tolist() == [0, 0, 1]
    assert frustum[-1, -1, -1].tolist() == [703, 255, 59.5]


def test_frustum_is_placed_as_the_equations_say(batch):
    frustum = make_frustum((48, 128), (1.0, 9.0, 2.0))
    placed = place_frustum(
        frustum,
        batch.camera_intrinsics,
        batch.camera_to_lidar,
        batch.image_augmentation,
        batch.lidar_augmentation,
    ).double()
    inverse = np.linalg.inv
    for sample, camera, depth, row, column in [(0, 0, 0, 0, 0), (1, 3, 2, 5, 15), (1, 5, 3, 2, 7)]:
        u, v, metres = frustum[depth, row, column].double().numpy()
        pixel = inverse(batch.image_augmentation[sample, camera].double().numpy()) @ [u, v, 1]
        ray = inverse(batch.camera_intrinsics[sample, camera].double().numpy()) @ (pixel * metres)
        lidar = batch.camera_to_lidar[sample, camera].double().numpy() @ [*ray, 1]
        expected = (batch.lidar_augmentation[sample].double().numpy() @ lidar)[:3]
        np.testing.assert_allclose(placed[sample, camera, depth, row, column].numpy(), expected, atol=1e-4)


def test_painted_depth_equals_a_loop_over_the_points(batch):
    height, width = 48, 128
    lidar_to_pixel = batch.camera_intrinsics @ torch.linalg.inv(batch.camera_to_lidar)[..., :3, :]
    painted = paint_depth(
        batch.points, lidar_to_pixel, batch.image_augmentation, batch.lidar_augmentation, (height, width)
    )
    expected = torch.zeros(2, 6, height, width)
    for sample in range(2):
        back = torch.linalg.inv(batch.lidar_augmentation[sample].double())
        for camera in range(6):
            to_camera = torch.linalg.inv(batch.camera_to_lidar[sample, camera].double())
            for point in batch.points[sample].double():
                x, y, z, _ = to_camera @ (back @ torch.cat([point[:3], torch.ones(1)]).double())
                if z <= 0:
                    continue
                u, v, w = batch.camera_intrinsics[sample, camera].double() @ torch.stack([x, y, z])
                pixel = torch.stack([u / w, v / w, torch.ones_like(w)])
                column, row, _ = batch.image_augmentation[sample, camera].double() @ pixel
                if 0 <= column < width and 0 <= row < height:
                    expected[sample, camera, int(row), int(column)] = z
    assert (expected > 0).sum() > 500
    # A point on the edge of two pixels may fall either way in single precision.
    assert ((painted - expected).abs() > 1e-3).sum() <= 2


def test_the_last_point_of_a_pixel_counts():
    matrix = torch.eye(3, 4)[None, None]
    same_pixel = torch.tensor([[3.2, 2.2, 1.0], [9.3, 6.9, 3.0], [6.4, 4.4, 2.0]])
    painted = paint_depth([same_pixel, same_pixel[:0]], matrix.expand(2, 1, 3, 4), torch.eye(3).expand(2, 1, 3, 3),
                          torch.eye(4).expand(2, 4, 4), (4, 8))  # fmt: skip
    assert painted[0, 0, 2, 3] == 2.0
    assert painted.count_nonzero() == 1


def test_cells_are_truncated_toward_zero():
    step, first_centre = torch.tensor([0.5, 0.5, 20.0]), torch.tensor([-1.75, -1.75, 0.0])
    points = torch.tensor([[-2.4, -1.6, 0.0], [-2.6, 1.9, 9.0], [2.4, 0.0, -15.0]])
    assert grid_cell(points, first_centre, step).tolist() == [[0, 0, 0], [-1, 7, 0], [8, 4, 0]]


def test_splat_equals_a_loop_over_the_frustum():
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(4, 3, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    context = torch.randn(4, 6, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    cell = torch.randint(-1, 4, (2, 2, 3, 2, 5, 3), generator=generator)
    grid = (3, 2, 2)
    expected = torch.zeros(2, 2, 6, 3, 2, dtype=torch.float64)
    for sample, camera, bin_, row, column in np.ndindex(2, 2, 3, 2, 5):
        x, y, z = cell[sample, camera, bin_, row, column].tolist()
        if 0 <= x < 3 and 0 <= y < 2 and 0 <= z < 2:
            picture = sample * 2 + camera
            expected[sample, z, :, x, y] += depth[picture, bin_, row, column] * context[picture, :, row, column]
    torch.testing.assert_close(splat(depth, context, cell, grid), expected.flatten(1, 2))
    assert torch.autograd.gradcheck(lambda d, c: splat(d, c, cell, grid), (depth, context))


def test_a_picture_lights_up_the_bev_map_where_its_camera_looks(batch):
    config = configuration("bevfusion-mit-toy")
    transform = DepthLss(config.camera, config.inputs.image_size).eval()
    batch.lidar_augmentation = torch.eye(4).repeat(2, 1, 1)
    batch.points = [cloud[:0] for cloud in batch.points]
    features = torch.randn(12, config.camera.neck, 6, 16, generator=torch.Generator().manual_seed(0))
    features.requires_grad_()
    bev = transform(features, batch)
    assert bev.shape == (2, config.camera.channels, 48, 48)
    # The first camera looks along +x: cells 15 m ahead depend on it, those behind on the fourth.
    for x, camera in ((38, 0), (9, 3)):
        (gradient,) = torch.autograd.grad(bev[0, :, x, 22:26].sum(), features, retain_graph=True)
        seen = gradient.abs().flatten(1).sum(1)
        assert seen.argmax() == camera
        assert seen[6:].sum() == 0


def test_constants_are_buffers():
    transform = DepthLss(configuration("bevfusion-mit-toy").camera, (48, 128))
    constants = {"grid_step", "grid_first_centre", "grid_cells", "frustum"}
    assert constants <= dict(transform.named_buffers()).keys()
    assert not constants & dict(transform.named_parameters()).keys()


def test_geometry_stays_in_single_precision_under_autocast(batch):
    config = configuration("bevfusion-mit-toy")
    torch.manual_seed(0)
    view = DepthLss(config.camera, config.inputs.image_size).eval()
    features = torch.randn(12, config.camera.neck, 6, 16)
    with torch.no_grad():
        whole = view(features, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = view(features, batch).float()
    # In bfloat16, a point 20 m away would be placed to 6 cm at best and most points would change their cells.
    assert (mixed - whole).norm() / whole.norm() < 0.03
