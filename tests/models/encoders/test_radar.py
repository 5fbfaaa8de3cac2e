"""The radar encoder against a loop over pillars."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.models.configurations.radar import RadarConfig
from altermoma_ray.models.encoders.radar import INPUTS, RadarEncoder

RANGE = (-4.0, -2.0, -5.0, 4.0, 2.0, 3.0)
SMALL = RadarConfig(pillar_size=(1.0, 0.5), max_points=3, channels=(6, 4))


class Returns:
    """The part of a batch that the encoder reads."""

    def __init__(self, *radar):
        self.radar = list(radar)

    def __len__(self):
        return len(self.radar)


def draw(count, seed=0):
    returns = torch.randn(count, 45, generator=torch.Generator().manual_seed(seed))
    returns[:, :2] *= 2
    return returns


def make(training=False):
    torch.manual_seed(0)
    encoder = RadarEncoder(SMALL, RANGE)
    for layer in encoder.backbone.layers:
        if isinstance(layer, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    return encoder.train(training)


def test_full_size_has_the_published_shapes():
    encoder = RadarEncoder(RadarConfig(), (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)).eval()
    assert INPUTS == 47
    linear = 47 * 128 + 128 * 128 + 128 * 128 + 128 * 64
    assert sum(parameter.numel() for parameter in encoder.parameters()) == linear + 2 * (3 * 128 + 64)
    assert encoder(Returns(draw(50))).shape == (1, 64, 128, 128)
    assert encoder.state_dict().keys() == {f"backbone.{name}" for name in encoder.backbone.state_dict()}


def test_each_pillar_holds_the_maximum_over_its_first_returns():
    encoder = make()
    clouds = draw(90), draw(60, seed=1)
    with torch.no_grad():
        found = encoder(Returns(*clouds))
    expected = torch.zeros(2, 4, 8, 8)
    for sample, cloud in enumerate(clouds):
        of_pillar = {}
        for point in cloud:
            x, y = int((point[0] + 4) // 1), int((point[1] + 2) // 0.5)
            if 0 <= x < 8 and 0 <= y < 8:
                of_pillar.setdefault((x, y), []).append(point)
        assert max(map(len, of_pillar.values())) > SMALL.max_points
        for (x, y), points in of_pillar.items():
            rows = []
            for point in points[: SMALL.max_points]:
                scaled = (point[:3] + torch.tensor([4.0, 2, 5])) / torch.tensor([8.0, 4, 8])
                offset = point[:2] - torch.tensor([x + 0.5 - 4, (y + 0.5) * 0.5 - 2])
                rows.append(torch.cat([scaled, point[3:], offset]))
            with torch.no_grad():
                expected[sample, :, x, y] = encoder.backbone.layers(torch.stack(rows)).amax(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_samples_without_returns_give_zeros(training):
    encoder = make(training)
    assert encoder(Returns(draw(0), draw(0))).abs().sum() == 0
    outside = draw(5) + torch.tensor([100.0] + [0] * 44)
    bev = encoder(Returns(outside, draw(9)))
    assert bev[0].abs().sum() == 0
    assert bev[1].abs().sum() > 0


def test_every_parameter_learns():
    encoder = make(training=True)
    encoder(Returns(draw(90))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
