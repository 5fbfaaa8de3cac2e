"""The file for libspconv: its content, and the interpreter that checks it against the encoder on spconv."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from altermoma_ray.models.export.checks import difference
from altermoma_ray.models.export.interpreter import READ, interpret
from altermoma_ray.models.export.sparse_file import sparse_model
from altermoma_ray.models.layers.voxelise import voxelise


@pytest.fixture(scope="module")
def voxels(model, sample):
    lidar = model.encoders["lidar"]
    return voxelise(
        [cloud[::8] for cloud in sample.points],
        lower=lidar.lower,
        size=lidar.config.voxel_size,
        grid=lidar.grid,
        max_points=10,
        max_voxels=20_000,
    )


@pytest.fixture
def file(model):
    return onnx.load_from_string(sparse_model(model.encoders["lidar"]).SerializeToString())


def expected(model, voxels):
    lidar = model.encoders["lidar"]
    with torch.no_grad():
        return lidar.backbone(voxels.features * lidar.point_scale, voxels.coordinates, 1)


def run(model, file, voxels):
    return interpret(file, voxels.features, voxels.coordinates, model.encoders["lidar"].backbone.spatial_shape)


def test_the_file_computes_the_encoder(model, voxels, file):
    wanted = expected(model, voxels)
    exact = sparse_model(model.encoders["lidar"], half=False)
    assert difference(run(model, exact, voxels), wanted) < 1e-5
    assert 1e-5 < difference(run(model, file, voxels), wanted) < 1e-2  # rounded to half precision, and no more


def test_nodes_are_those_of_the_runtimes_parser(model, file):
    lidar = model.encoders["lidar"].backbone
    assert [(one.domain, one.version) for one in file.opset_import] == [("ai.onnx", 11)]
    assert file.graph.name == "scn"
    kinds = [node.op_type for node in file.graph.node]
    assert set(kinds) == set(READ)
    assert kinds[-3:] == ["ScatterDense", "Transpose", "Reshape"]
    convolutions = [node for node in file.graph.node if node.op_type == "SparseConvolution"]
    assert [node.name for node in convolutions] == [f"conv{number}" for number in range(len(convolutions))]
    weights = {one.name: one for one in file.graph.initializer}
    for node in convolutions:
        told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        weight, bias = weights[node.input[1]], weights[node.input[2]]
        assert weight.data_type == bias.data_type == onnx.TensorProto.FLOAT16
        assert list(weight.dims) == [told["out_channels"], *told["kernel_size"], told["in_channels"]]
        assert len(weight.raw_data) == 2 * numpy_helper.to_array(weight).size
        assert list(bias.dims) == [told["out_channels"]]
        # A convolution before a residual sum has no activation; the ReLU behind the sum is a node of its own.
        followed = next(after.op_type for after in file.graph.node if node.output[0] in after.input)
        assert told["activation"] == (b"None" if followed == "Add" else b"ReLU")
    books = [
        helper.get_attribute_value(one).decode()
        for node in convolutions
        for one in node.attribute
        if one.name == "rulebook"
    ]
    assert books == ["subm1"] * 3 + ["spconv1"] + ["subm2"] * 4 + ["spconv2"] + ["subm3"] * 2 + ["spconv_out"]
    (last,) = file.graph.output
    assert [dim.dim_value for dim in last.type.tensor_type.shape.dim] == [1, lidar.out_channels, *lidar.bev_size]


def attribute(file, name, key):
    node = next(node for node in file.graph.node if node.name == name)
    return node, next(one for one in node.attribute if one.name == key)


def test_a_missing_attribute_is_found(model, voxels, file):
    node, one = attribute(file, "conv1", "rulebook")
    node.attribute.remove(one)
    with pytest.raises(ValueError, match="conv1 has no attribute rulebook"):
        run(model, file, voxels)


def test_an_unknown_operation_is_found(model, voxels, file):
    file.graph.node[0].op_type = "BatchNormalization"
    with pytest.raises(ValueError, match="conv0 is a BatchNormalization, which the runtime does not know"):
        run(model, file, voxels)


def test_a_rulebook_of_other_voxels_is_found(model, voxels, file):
    _, one = attribute(file, "conv3", "rulebook")
    one.s = b"subm1"
    with pytest.raises(ValueError, match="rulebook subm1 is shared by convolutions of other geometry or voxels"):
        run(model, file, voxels)


def test_a_forgotten_activation_shows_in_the_result(model, voxels, file):
    _, one = attribute(file, "conv11", "activation")
    one.s = b"None"
    assert difference(run(model, file, voxels), expected(model, voxels)) > 1e-2


def test_another_padding_makes_another_grid(model, voxels, file):
    _, one = attribute(file, "conv8", "padding")
    one.ints[0] = 0
    with pytest.raises(ValueError, match="ScatterDense is told a grid of"):
        run(model, file, voxels)
