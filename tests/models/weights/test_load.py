from __future__ import annotations

import json
import logging
import math
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import spconv.pytorch as spconv
import torch
import torch.nn.functional as F
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion
from safetensors.torch import load, save
from torch import Tensor
from torchvision.models import resnet101

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import read_header, save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.releases.bevfusion import MIT, MMDET3D, RELEASES, Release, is_constant
from altermoma_ray.models.weights.load import from_released, load_weights
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.boxes import BevGrid, decode_boxes, encode_boxes

TOY = configuration("bevfusion-mit-toy")


@pytest.fixture(scope="module")
def model() -> FusionModel:
    """A toy model whose every tensor is random, constants apart."""
    torch.manual_seed(0)
    model = FusionModel(TOY).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1 and tensor.is_floating_point() and "grid_" not in name:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return model


def released(model: FusionModel, release: Release) -> OrderedDict[str, Tensor]:
    """A model's tensors as the release would have stored them, written from its layout and not from our conversion."""
    tensors = OrderedDict()
    for name, tensor in model.state_dict().items():
        theirs = tensor.clone()
        if name.endswith("relative_position_index"):
            side = math.isqrt(len(tensor))
            theirs = tensor.view(side, side)
        elif tensor.dim() == 5 and release is MIT:
            theirs = tensor.permute(1, 2, 3, 4, 0)
        elif "features" in name and ("reduction" in name or name.split(".")[-2] == "norm"):
            channels = tensor.shape[-1] // 4
            for block, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
                for channel in range(channels):
                    theirs[..., channel * 4 + 2 * row + column] = tensor[..., block * channels + channel]
        elif ".dim.1." in name and release is MIT:
            length, width, height = tensor
            theirs = torch.stack([width, length, height])
        elif ".rot.1." in name and release is MIT:
            sine, cosine = tensor
            theirs = torch.stack([-cosine, -sine])
        tensors[release.name(name)] = theirs.contiguous()
    return tensors


def write(folder: Path, content: object) -> Path:
    path = folder / "released.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("release", "names"),
    [
        (
            MIT,
            {
                "encoders.camera.backbone.patch_embed.norm.bias": [96],
                "encoders.camera.backbone.stages.2.blocks.5.attn.w_msa.relative_position_index": [49, 49],
                "encoders.camera.backbone.stages.3.blocks.1.ffn.layers.1.weight": [768, 3072],
                "encoders.camera.backbone.stages.0.downsample.reduction.weight": [192, 384],
                "encoders.camera.backbone.norm3.weight": [768],
                "encoders.camera.neck.lateral_convs.1.conv.weight": [256, 1152, 1, 1],
                "encoders.camera.neck.fpn_convs.0.bn.running_var": [256],
                "encoders.camera.vtransform.nx": [3],
                "encoders.camera.vtransform.frustum": [118, 32, 88, 3],
                "encoders.camera.vtransform.dtransform.0.weight": [8, 1, 1, 1],
                "encoders.camera.vtransform.depthnet.6.weight": [198, 256, 1, 1],
                "encoders.lidar.backbone.conv_input.0.weight": [3, 3, 3, 5, 16],
                "encoders.lidar.backbone.encoder_layers.encoder_layer3.2.0.weight": [3, 3, 3, 64, 128],
                "encoders.lidar.backbone.encoder_layers.encoder_layer4.1.bn2.num_batches_tracked": [],
                "encoders.lidar.backbone.conv_out.0.weight": [1, 1, 3, 128, 128],
                "heads.object.decoder.0.norm3.bias": [128],
                "heads.object.prediction_heads.0.heatmap.1.weight": [10, 64, 1],
            },
        ),
        (
            MMDET3D,
            {
                "img_backbone.stages.1.blocks.0.attn.w_msa.qkv.weight": [576, 192],
                "img_neck.lateral_convs.0.bn.weight": [256],
                "view_transform.dx": [3],
                "pts_middle_encoder.encoder_layers.encoder_layer1.2.0.weight": [32, 3, 3, 3, 16],
                "fusion_layer.0.weight": [256, 336, 3, 3],
                "pts_backbone.blocks.1.16.running_mean": [256],
                "pts_neck.deblocks.1.0.weight": [256, 256, 2, 2],
                "bbox_head.decoder.0.self_attn.attn.in_proj_bias": [384],
                "bbox_head.decoder.0.cross_attn.attn.out_proj.weight": [128, 128],
                "bbox_head.decoder.0.ffn.layers.0.0.weight": [256, 128],
                "bbox_head.decoder.0.ffn.layers.1.bias": [128],
                "bbox_head.decoder.0.norms.0.weight": [128],
                "bbox_head.decoder.0.cross_posembed.position_embedding_head.3.weight": [128, 128, 1],
            },
        ),
    ],
)
def test_names_and_shapes_are_the_released_ones(release, names):
    with torch.device("meta"):
        ours = FusionModel(configuration("bevfusion-mit")).state_dict()
    shapes = {release.name(name): [list(shape) for shape in release.shapes(name, ours[name])] for name in ours}
    assert len(shapes) == 582
    assert {name: shape for name, shape in names.items() if shape not in shapes.get(name, [])} == {}


def test_a_resnet_keeps_torchvision_s_names_below_the_released_backbone():
    with torch.device("meta"):
        ours = FusionModel(configuration("bevfusion-mit-r101-second")).state_dict()
        swin = FusionModel(configuration("bevfusion-mit")).state_dict()
        theirs = {name: [tensor.shape] for name, tensor in resnet101().state_dict().items() if "fc." not in name}
    for release, backbone in ((MIT, "encoders.camera.backbone."), (MMDET3D, "img_backbone.")):
        shapes = {release.name(name): release.shapes(name, ours[name]) for name in ours}
        assert {name: shape for name, shape in shapes.items() if name.startswith(backbone)} == {
            f"{backbone}{name}": shape for name, shape in theirs.items()
        }
        # All other tensors are the released detector's, but for the widths of the neck's inputs.
        released = {release.name(name): release.shapes(name, swin[name]) for name in swin}
        others = {name: shape for name, shape in shapes.items() if not name.startswith(backbone)}
        assert others.keys() == {name for name in released if not name.startswith(backbone)}
        wider = [name.split("neck.")[-1] for name, shape in others.items() if shape != released[name]]
        assert wider == ["lateral_convs.0.conv.weight", "lateral_convs.1.conv.weight"]


@pytest.mark.parametrize(("release", "file"), [(MIT, "mit_keys.json"), (MMDET3D, "mmdet3d_keys.json")])
def test_names_and_shapes_are_those_of_the_key_lists(release, file):
    folder = os.environ.get("ALTERMOMA_REFERENCE", "")
    if not folder:
        pytest.skip("ALTERMOMA_REFERENCE is not set: it names a folder with bevfusion-keys/")
    listed = {name: shape for name, shape, _ in json.loads((Path(folder) / "bevfusion-keys" / file).read_text())}
    with torch.device("meta"):
        ours = FusionModel(configuration("bevfusion-mit")).state_dict()
    shapes = {release.name(name): [list(shape) for shape in release.shapes(name, ours[name])] for name in ours}
    assert shapes.keys() == listed.keys()
    assert [name for name, shape in listed.items() if shape not in shapes[name]] == []


@pytest.mark.parametrize("release", RELEASES)
def test_released_file_gives_the_same_model(release, model, batch, tmp_path, caplog):
    path = write(tmp_path, {"meta": {"epoch": 6, "classes": ["car"]}, "state_dict": released(model, release)})
    with caplog.at_level(logging.WARNING):
        loaded = load_weights(path, TOY)
    assert not caplog.records
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with torch.no_grad():
        expected, outputs = model(batch), loaded(batch)
    assert all(torch.equal(outputs[name], expected[name]) for name in expected)


@pytest.mark.parametrize("release", RELEASES)
def test_released_file_with_a_resnet_gives_the_same_model(release, tmp_path, caplog):
    config = configuration("bevfusion-mit-r101-second-toy")
    torch.manual_seed(0)
    model = FusionModel(config)
    path = write(tmp_path, {"state_dict": released(model, release)})
    with caplog.at_level(logging.WARNING):
        loaded = load_weights(path, config).state_dict()
    assert not caplog.records
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_unwrapped_half_precision_and_outdated_names_are_read(model, tmp_path):
    tensors = {
        name.replace("view_transform.", "vtransform."): tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in released(model, MMDET3D).items()
    }
    loaded = load_weights(Location.parse(write(tmp_path, tensors)), TOY)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_sparse_kernels_of_both_layouts_convolve_alike(model):
    """A fully occupied grid turns a sparse convolution into a dense one."""
    first = model.encoders["lidar"].backbone.input_conv[0]
    for release in RELEASES:
        tensors = released(model, release)
        # The kernel in spconv 1.x' layout, whatever the release.
        name = release.name("encoders.lidar.backbone.input_conv.0.weight")
        kernel = first.weight.detach().permute(1, 2, 3, 4, 0).contiguous()
        tensors[name] = kernel
        layer = from_released(tensors, TOY, origin="test").encoders["lidar"].backbone.input_conv[0]
        volume = torch.randn(1, 5, 4, 5, 6, generator=torch.Generator().manual_seed(1))
        coordinates = F.pad(torch.ones(4, 5, 6).nonzero(), (1, 0)).int()
        voxels = spconv.SparseConvTensor(volume[0].flatten(1).t().contiguous(), coordinates, [4, 5, 6], 1)
        dense = F.conv3d(volume, kernel.permute(4, 3, 0, 1, 2), padding=1)
        torch.testing.assert_close(layer(voxels).dense(), dense, rtol=1e-4, atol=1e-5)


def test_patch_merging_reads_the_released_channel_order(model):
    """Liu et al. merge by unfolding; torchvision by slicing."""
    tensors = released(model, MIT)
    prefix = "encoders.camera.backbone.stages.0.downsample."
    tokens = torch.randn(2, 6, 8, TOY.camera.embed, generator=torch.Generator().manual_seed(1))
    unfolded = F.unfold(tokens.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)
    norm = [tensors[f"{prefix}norm.{part}"] for part in ("weight", "bias")]
    expected = F.layer_norm(unfolded, unfolded.shape[-1:], *norm) @ tensors[f"{prefix}reduction.weight"].t()
    loaded = from_released(tensors, TOY, origin="test")
    merged = loaded.encoders["camera"].backbone.features[2](tokens)
    torch.testing.assert_close(merged.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("release", RELEASES)
def test_boxes_are_where_the_release_puts_them(release, model):
    """Corners by the devkit, of boxes made as each release writes its results."""
    tensors = released(model, release)
    features = torch.randn(1, TOY.head.branch_hidden, 20, generator=torch.Generator().manual_seed(1))
    last = {part: release.name(f"head.prediction_heads.0.{part}.1.weight") for part in ("dim", "rot")}
    theirs = {part: (tensors[name][..., 0] @ features[0]).double().numpy() for part, name in last.items()}
    for name in last.values():
        tensors[name.replace("weight", "bias")].zero_()
    branches = from_released(tensors, TOY, origin="test").head.prediction_heads[0]
    ours = torch.cat([branches[part][1](features) for part in ("dim", "rot")], dim=1).detach()
    codes = F.pad(ours, (0, 0, 3, 2)).transpose(1, 2)[0]
    boxes = decode_boxes(codes, BevGrid(origin=(0, 0), cell=(1, 1), shape=(1, 1))).double().numpy()
    for box, size, (sine, cosine) in zip(boxes, np.exp(theirs["dim"].T), theirs["rot"].T, strict=True):
        yaw = math.atan2(sine, cosine)
        if release is MIT:
            published = Box([0, 0, 0], size, Quaternion(axis=[0, 0, 1], radians=-yaw - math.pi / 2))
        else:
            published = Box([0, 0, 0], size[[1, 0, 2]], Quaternion(axis=[0, 0, 1], radians=yaw))
        here = Box([0, 0, 0], box[[4, 3, 5]], Quaternion(axis=[0, 0, 1], radians=box[6]))
        np.testing.assert_allclose(here.corners(), published.corners(), atol=1e-5)


@pytest.mark.parametrize(("release", "height"), [(MIT, "top"), (MMDET3D, "centre")])
def test_the_convention_of_heights_goes_with_the_weights(release, height, model, tmp_path):
    loaded = from_released(released(model, release), TOY, origin="test")
    assert loaded.config == TOY.model_copy(update={"head": TOY.head.model_copy(update={"height": height})})
    save_checkpoint(Location.parse(tmp_path / "own.safetensors"), loaded, {})
    again = load_weights(tmp_path / "own.safetensors", TOY)
    assert again.config == loaded.config
    # A box of the released code: its z, declared to be the bottom, plus half the height that its coder adds.
    box = torch.tensor([[0.0, 0, 1.0, 4, 2, 3, 0, 0, 0]])
    theirs = (1.0 if release is MIT else 1.0 - 3 / 2) + 3 / 2
    assert (
        encode_boxes(box, BevGrid(origin=(0, 0), cell=(1, 1), shape=(1, 1)), again.config.head.height)[0, 2] == theirs
    )


def test_other_constants_are_taken_and_reported(model, caplog):
    tensors = released(model, MMDET3D)
    tensors["view_transform.frustum"] = tensors["view_transform.frustum"] + 1
    with caplog.at_level(logging.WARNING):
        loaded = from_released(tensors, TOY, origin="there")
    assert "there was made with other constants than model 'bevfusion-mit-toy': " in caplog.text
    assert "view_transform.frustum" in caplog.text
    difference = loaded.state_dict()["encoders.camera.view_transform.frustum"] - tensors["view_transform.frustum"]
    assert difference.abs().max() == 0


def test_own_checkpoint_is_recognised_by_content(model, tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(Location.parse(path), model, {})
    loaded = load_weights(path, TOY)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match=r"model.pth is of model 'bevfusion-mit-toy', not 'bevfusion-mit'; choose"):
        load_weights(path, configuration("bevfusion-mit"))


def spoil(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == "missing":
        for name in ("fuser.0.weight", "fuser.1.bias"):
            del tensors[name]
    elif how == "unknown":
        tensors["heads.map.classifier.weight"] = torch.zeros(3)
    elif how == "shape":
        tensors["encoders.lidar.backbone.conv_input.0.weight"] = torch.zeros(3, 3, 3, 4, 8)
    elif how == "type":
        tensors["fuser.0.weight"] = tensors["fuser.0.weight"].long()
    elif how == "lidar only":
        return {name: tensor for name, tensor in tensors.items() if "camera" not in name}
    return tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "2 tensors do not (fuser.0.weight is missing, fuser.1.bias is missing); choose"),
        ("unknown", "1 tensors do not (heads.map.classifier.weight is unknown); choose"),
        (
            "shape",
            "encoders.lidar.backbone.conv_input.0.weight has shape [3, 3, 3, 4, 8] instead of [8, 3, 3, 3, 5] or "
            "[3, 3, 3, 5, 8]",
        ),
        ("type", "fuser.0.weight holds torch.int64 instead of torch.float32"),
        ("lidar only", "encoders.camera.backbone.patch_embed.projection.weight is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(how, message, model, tmp_path):
    path = write(tmp_path, {"state_dict": spoil(released(model, MIT), how)})
    with pytest.raises(UserError) as caught:
        load_weights(path, TOY)
    assert str(caught.value).startswith(f"{path} does not fit model 'bevfusion-mit-toy': ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_model_is_refused(model, tmp_path):
    path = write(tmp_path, released(model, MMDET3D))
    with pytest.raises(UserError, match=r"does not fit model 'bevfusion-mit': \d{3} tensors do not \(.*, …\); choose"):
        load_weights(path, configuration("bevfusion-mit"))


def test_a_shard_alone_asks_for_the_index(model, tmp_path):
    torch.save(dict(list(released(model, MIT).items())[:50]), tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(UserError, match=r"00002.bin does not fit .*; it is one of several shards: give their index$"):
        load_weights(tmp_path / "pytorch_model-00001-of-00002.bin", TOY)


def test_own_checkpoint_in_half_precision_keeps_constants(model, tmp_path):
    """A tool that casts safetensors leaves the header as it is."""
    save_checkpoint(Location.parse(tmp_path / "own.safetensors"), model, {})
    data = (tmp_path / "own.safetensors").read_bytes()
    half = {name: tensor.bfloat16() for name, tensor in load(data).items() if tensor.is_floating_point()}
    (tmp_path / "half.safetensors").write_bytes(save(load(data) | half, metadata=read_header(data)))
    loaded = load_weights(tmp_path / "half.safetensors", TOY).state_dict()
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        if is_constant(name):
            assert torch.equal(loaded[name], tensor), name
        else:
            torch.testing.assert_close(loaded[name], tensor, rtol=1e-2, atol=1e-2)
