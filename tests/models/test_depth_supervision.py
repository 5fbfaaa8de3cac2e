from __future__ import annotations

import math

import torch

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.depth_supervision import DepthSupervision
from altermoma_ray.models.views.depth_lss import STRIDE, paint_depth


def test_loss_is_the_cross_entropy_of_each_cell_s_nearest_point(batch):
    torch.manual_seed(0)
    model = FusionModel(configuration("bevfusion-mit-toy")).eval()
    view = model.encoders["camera"].view_transform
    kept = []
    handle = view.lift_net.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with DepthSupervision(model.encoders["camera"]) as supervision, torch.no_grad():
        model(batch)
        found = supervision.loss(batch)
    handle.remove()
    probabilities = kept[0][:, : view.bins].softmax(1).unflatten(0, (len(batch), -1))

    lidar_to_pixel = batch.camera_intrinsics @ torch.linalg.inv(batch.camera_to_lidar)[..., :3, :]
    painted = paint_depth(
        batch.points, lidar_to_pixel, batch.image_augmentation, batch.lidar_augmentation, view.image_size
    )
    first, last, step = model.config.camera.depth_bins
    for sample in range(len(batch)):
        losses = []
        for camera, picture in enumerate(painted[sample]):
            for row in range(picture.shape[0] // STRIDE):
                for column in range(picture.shape[1] // STRIDE):
                    cell = picture[row * STRIDE : (row + 1) * STRIDE, column * STRIDE : (column + 1) * STRIDE]
                    depths = [float(depth) for depth in cell.flatten() if depth > 0]
                    if not depths or not first - step / 2 <= min(depths) < last - step / 2:
                        continue
                    wanted = math.floor((min(depths) - first) / step + 0.5)
                    losses.append(-math.log(probabilities[sample, camera, wanted, row, column]))
        assert losses
        torch.testing.assert_close(float(found[sample]), sum(losses) / len(losses), rtol=1e-4, atol=1e-5)


def test_nothing_is_left_on_the_model(batch):
    model = FusionModel(configuration("bevfusion-mit-toy"))
    with DepthSupervision(model.encoders["camera"]):
        pass
    assert not model.encoders["camera"].view_transform.lift_net._forward_hooks
