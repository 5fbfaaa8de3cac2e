"""The checkpoints that come with the project."""

from __future__ import annotations

import pytest

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.weights.load import load_weights
from altermoma_ray.storage import Location
from altermoma_ray.workloads.nusc import CHECKPOINTS


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_shipped_checkpoint_fits_its_model_and_is_small(name):
    place = Location.parse(CHECKPOINTS[name])
    model = load_weights(place, configuration(name))
    assert model.config == configuration(name)
    assert len(place.read_bytes()) < 5_000_000
