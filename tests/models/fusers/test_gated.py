from __future__ import annotations

import torch
import torch.nn.functional as F

from altermoma_ray.models.configurations.fusion import GatedFuserConfig
from altermoma_ray.models.fusers.gated import GatedFuser


def by_hand(fuser, camera, lidar):
    weight, (norm, attention) = fuser[0].weight, (fuser[1], fuser[3].weights[1])
    fused = F.conv2d(camera, weight[:, :2], padding=1) + F.conv2d(lidar, weight[:, 2:], padding=1)
    fused = F.relu(fused / (norm.running_var + 1e-3).sqrt()[:, None, None])
    logits = fused.mean((2, 3)) @ attention.weight[:, :, 0, 0].T + attention.bias
    return fused * logits.sigmoid()[:, :, None, None]


def test_channels_of_the_stacked_and_convolved_maps_are_gated_by_their_means():
    torch.manual_seed(0)
    fuser = GatedFuser(GatedFuserConfig(channels=6), [2, 3]).eval()
    torch.nn.init.uniform_(fuser[1].running_var, 0.5, 2)
    torch.nn.init.normal_(fuser[3].weights[1].bias)
    camera, lidar = torch.randn(2, 2, 5, 4), torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(fuser([camera, lidar]), by_hand(fuser, camera, lidar))
    assert (fuser[1].eps, fuser[1].momentum) == (1e-3, 0.01)


def test_a_map_on_another_grid_is_resized_to_the_last_one_s():
    torch.manual_seed(0)
    fuser = GatedFuser(GatedFuserConfig(channels=6), [2, 3]).eval()
    camera, lidar = torch.randn(2, 2, 3, 2), torch.randn(2, 3, 5, 4)
    resized = F.interpolate(camera, (5, 4), mode="bilinear", align_corners=True)
    # The corners stay where they are.
    assert torch.equal(resized[..., 0, 0], camera[..., 0, 0])
    torch.testing.assert_close(fuser([camera, lidar]), by_hand(fuser, resized, lidar))
