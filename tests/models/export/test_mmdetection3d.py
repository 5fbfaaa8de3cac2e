"""Weights under mmdetection3d's names: every name and shape is the release's, and every value comes back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.export.mmdetection3d import narrowed_layers, released_state
from altermoma_ray.models.export.targets import to_mmdetection3d
from altermoma_ray.models.releases.bevfusion import MIT, RELEASES
from altermoma_ray.models.weights.load import from_released


def test_the_files_of_a_pruned_model(model, whole):
    made = to_mmdetection3d(model, lambda _: None)
    assert list(made.files) == ["weights.pth", "widths.json"]
    assert [(check.file, check.largest) for check in made.checks] == [("weights.pth", 0.0), ("widths.json", 0.0)]
    layers = json.loads(made.files["widths.json"])["layers"]
    assert layers["pts_middle_encoder.conv_out.0"] == {"in_channels": [16, 32], "out_channels": [32, 64]}
    assert layers["view_transform.depthnet.6"]["out_channels"] == [24 + 16, 24 + 32]
    assert layers["fusion_layer.0"] == {"in_channels": [16 + 32, 32 + 64], "out_channels": [24, 48]}
    assert any("heads" in changed for changed in layers.values())
    assert all(value < before for changed in layers.values() for value, before in changed.values())
    assert narrowed_layers(whole) == {}


def test_an_unpruned_model_comes_back_by_the_loader(whole):
    again = from_released(released_state(whole), whole.config, origin="export")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("release", RELEASES)
def test_restore_is_the_inverse_of_convert(release, whole):
    for name, tensor in whole.state_dict().items():
        assert torch.equal(release.convert(name, tensor, release.restore(name, tensor)), tensor), name


def test_names_and_shapes_are_the_releases():
    folder = os.environ.get("ALTERMOMA_REFERENCE", "")
    if not folder:
        pytest.skip("ALTERMOMA_REFERENCE is not set: it names a folder with bevfusion-keys/")
    keys = json.loads(Path(folder, "bevfusion-keys", "mmdet3d_keys.json").read_text())
    state = released_state(FusionModel(configuration("bevfusion-mit")))
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {name: shape for name, shape, _ in keys}


def test_boxes_told_by_their_top_are_refused():
    config = configuration("bevfusion-mit-toy")
    head = config.head.model_copy(update={"height": MIT.height})
    model = FusionModel(config.model_copy(update={"head": head}))
    with pytest.raises(UserError, match="learned the z of a box's top, but mmdetection3d reads the z of its centre"):
        to_mmdetection3d(model, lambda _: pytest.fail("began"))


def test_a_model_with_other_parts_is_refused():
    with pytest.raises(UserError, match="has a part that mmdetection3d's BEVFusion lacks"):
        to_mmdetection3d(FusionModel(configuration("bevfusion-mit-seg-toy")), lambda _: pytest.fail("began"))
