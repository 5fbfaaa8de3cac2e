from __future__ import annotations

import torch

from altermoma_ray.models.configurations.coarse_lift import CoarseLiftConfig
from altermoma_ray.models.views.coarse_lss import CoarseLss
from altermoma_ray.models.views.depth_lss import splat

SMALL = CoarseLiftConfig(
    feature_stride=16,
    levels=(6,),
    depth_bins=(1.0, 9.0, 1.0),
    channels=4,
    grid_x=(-25.6, 25.6, 1.6),
    grid_y=(-25.6, 25.6, 1.6),
)


def test_the_map_is_the_splat_itself(batch):
    torch.manual_seed(0)
    view = CoarseLss(SMALL, (48, 128)).eval()
    features = torch.randn(12, 6, 3, 8)
    with torch.no_grad():
        bev = view(features, batch)
        depth, context = view.lift(features, None)
        torch.testing.assert_close(bev, splat(depth, context, view.cells(batch), view.grid_shape))
    assert bev.shape == (2, view.out_channels, 32, 32) == (2, 4, 32, 32)
    assert bev.abs().sum() > 0


def test_feature_cells_span_the_whole_picture():
    view = CoarseLss(SMALL, (48, 128))
    assert view.frustum[0, 0, :, 0].tolist() == torch.linspace(0, 127, 8).tolist()
    assert view.frustum[:, 0, 0, 2].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
