"""Files of a model whose LiDAR branch has its own decoder and whose camera folds heights."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.export import targets
from tests.models.export.conftest import halved, small_config, unsettle


@pytest.fixture(scope="module")
def model() -> FusionModel:
    toy, small = configuration("bevfusion-pku-toy"), small_config()
    shrunk = {field: getattr(small.camera, field) for field in ("depths", "embed", "heads")}
    camera = toy.camera.model_copy(update=shrunk)
    lidar = toy.lidar.model_copy(update={"stages": small.lidar.stages})
    torch.manual_seed(0)
    return halved(unsettle(FusionModel(toy.model_copy(update={"camera": camera, "lidar": lidar})).eval()))


def test_onnx_files_and_their_chain_equal_the_model(model):
    made = targets.to_onnx(model, lambda _: None)
    assert all(0 < check.largest <= 1e-4 for check in made.checks)
    # The decoder of the LiDAR branch is in the fuser's file, whose input is the sparse encoder's map.
    fuser = next(check for check in made.checks if check.file == "fuser.onnx")
    assert fuser.inputs["lidar"] == [1, model.encoders["lidar"].backbone.out_channels, 48, 48]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuda-bevfusion", "lifts pictures without LiDAR depth"),
        ("mmdetection3d", "has a part that mmdetection3d's BEV"),
    ],
)
def test_formats_of_the_other_bevfusion_are_refused(target, message, model):
    with pytest.raises(UserError, match=message):
        targets.TARGETS[target](model, lambda _: None, 0)
