"""The published model, pruned, as CUDA-BEVFusion reads it (a minute of work and 5 GB of memory each)."""

from __future__ import annotations

import onnx
import pytest
import torch

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.export.targets import to_cuda_bevfusion
from altermoma_ray.pruning import Target, prunable_weights
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.granularity import Channel
from altermoma_ray.workloads.workload import groups_of
from tests.models.export.conftest import unsettle

FREE = -1
"""A width that pruning may change."""
EXPECTED = {
    "camera.backbone.onnx": {
        "img": [1, 6, 3, 256, 704],
        "depth": [1, 6, 1, 256, 704],
        "camera_feature": [6, 32, 88, FREE],
        "camera_depth_weights": [6, 118, 32, 88],
    },
    "camera.vtransform.onnx": {"feat_in": [1, FREE, 360, 360], "feat_out": [1, FREE, 180, 180]},
    "fuser.onnx": {"camera": [1, FREE, 180, 180], "lidar": [1, FREE, 180, 180], "middle": [1, FREE, 180, 180]},
    "head.bbox.onnx": {
        "middle": [1, FREE, 180, 180],
        "score": [1, 10, 200],
        "rot": [1, 2, 200],
        "dim": [1, 3, 200],
        "reg": [1, 2, 200],
        "height": [1, 1, 200],
        "vel": [1, 2, 200],
    },
}
"""Names and shapes that the runtime asks for."""


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_files_of_the_pruned_published_model(share):
    torch.manual_seed(0)
    model = unsettle(FusionModel(configuration("bevfusion-mit")).eval())
    channels = Channel(Bounds(multiple=10)).bound_to(model, lambda _: pytest.fail("the model tells its own channels"))
    # Magnitudes differ between layers by their width; a common scale lets every layer lose some channels.
    scores = {name: weight.detach().abs() / weight.detach().std() for name, weight in prunable_weights(model).items()}
    groups = groups_of(model)
    target = Target(groups=groups, sparsity=share, ratios=dict.fromkeys(groups, share))
    small = channels.finalise(model, channels.select(scores, target))
    assert small.encoders["lidar"].out_channels < model.encoders["lidar"].out_channels
    made = to_cuda_bevfusion(small, lambda _: None)
    assert list(made.files) == [*EXPECTED, "lidar.backbone.xyz.onnx"]
    for name, tensors in EXPECTED.items():
        file = onnx.load_from_string(made.files[name])
        assert [(one.domain, one.version) for one in file.opset_import] == [("", 13)]
        found = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*file.graph.input, *file.graph.output)
        }
        assert list(found) == list(tensors)
        for tensor, shape in tensors.items():
            pairs = list(zip(found[tensor], shape, strict=True))
            assert all(size == wanted or (wanted == FREE and size > 0) for size, wanted in pairs), tensor
    assert small.encoders["camera"].view_transform.channels % 10 == 0
    assert [check.file for check in made.checks[-2:]] == ["lidar.backbone.xyz.onnx"] * 2
    assert all(check.largest <= check.tolerance for check in made.checks)
    assert all(check.not_run_on for check in made.checks)
