"""The release of ADLab-AutoDrive: names, shapes, and axes of its kernels."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.layers.sparse import spconv
from altermoma_ray.models.releases.bevfusion import MMDET3D, PKU, is_constant
from altermoma_ray.models.weights.load import from_released, load_weights

TOY = configuration("bevfusion-pku-toy")
DUAL = TOY.model_copy(update={"camera": TOY.camera.model_copy(update={"dual": True})})
OVER_MAPS = ("lift_splat_shot_vis.bevencode.", "pts_backbone.", "pts_neck.", "reduc_conv.", "pts_bbox_head.")
"""The released parts whose kernels slide over maps [y, x]."""


@pytest.fixture(scope="module", params=[TOY, DUAL], ids=["one Swin", "two Swins"])
def model(request) -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(request.param).eval()


def released(model: FusionModel, spconv_version: int = 1) -> dict[str, Tensor]:
    """The model's weights as the release would hold them, written out case by case."""
    tensors = {}
    for ours, tensor in model.state_dict().items():
        name = PKU.name(ours)
        if ours.endswith("relative_position_index"):
            tensor = tensor.view(16, 16)
        elif tensor.dim() == 5:
            # (x, y, z) to (z, y, x); then the first version keeps the channels last.
            tensor = tensor.permute(0, 3, 2, 1, 4)
            tensor = tensor.permute(1, 2, 3, 4, 0) if spconv_version == 1 else tensor
        elif name.startswith(OVER_MAPS) and tensor.dim() == 4:
            tensor = tensor.permute(0, 1, 3, 2)
        elif ".dim.1." in name:
            tensor = torch.stack([tensor[1], tensor[0], tensor[2]])
        elif ".rot.1." in name:
            tensor = torch.stack([-tensor[1], -tensor[0]])
        tensors[name] = tensor.contiguous()
    return tensors


def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        ours = FusionModel(configuration("bevfusion-pku-dual")).state_dict()
    shapes = {PKU.name(name): [list(shape) for shape in PKU.shapes(name, ours[name])] for name in ours}
    assert len(shapes) == len(ours)
    published = {
        "img_backbone.cb_modules.0.patch_embed.proj.weight": [96, 3, 4, 4],
        "img_backbone.cb_modules.0.patch_embed.norm.bias": [96],
        "img_backbone.cb_modules.0.layers.0.blocks.0.mlp.fc1.weight": [384, 96],
        "img_backbone.cb_modules.1.layers.2.blocks.5.attn.relative_position_bias_table": [169, 12],
        "img_backbone.cb_modules.1.layers.3.blocks.1.attn.relative_position_index": [49, 49],
        "img_backbone.cb_modules.1.layers.0.downsample.reduction.weight": [192, 384],
        "img_backbone.cb_modules.1.norm0.weight": [96],
        "img_backbone.cb_modules.1.norm3.weight": [768],
        "img_backbone.cb_linears.0.3.weight": [96, 768, 1, 1],
        "img_backbone.cb_linears.2.1.bias": [384],
        "img_neck.lateral_convs.3.conv.weight": [256, 768, 1, 1],
        "img_neck.fpn_convs.0.conv.bias": [256],
        "img_neck.adp.4.1.conv.weight": [256, 256, 1, 1],
        "img_neck.reduc_conv.conv.weight": [256, 1280, 3, 3],
        "lift_splat_shot_vis.frustum": [41, 112, 200, 3],
        "lift_splat_shot_vis.nx": [3],
        "lift_splat_shot_vis.camencode.depthnet.weight": [105, 256, 1, 1],
        "lift_splat_shot_vis.bevencode.0.weight": [832, 832, 3, 3],
        "lift_splat_shot_vis.bevencode.9.weight": [256, 512, 3, 3],
        "lift_splat_shot_vis.bevencode.10.running_mean": [256],
        "pts_middle_encoder.conv_input.0.weight": [3, 3, 3, 5, 16],
        "pts_middle_encoder.encoder_layers.encoder_layer1.0.bn1.weight": [16],
        "pts_middle_encoder.encoder_layers.encoder_layer3.2.0.weight": [3, 3, 3, 64, 128],
        "pts_middle_encoder.conv_out.0.weight": [3, 1, 1, 128, 128],
        "pts_backbone.blocks.1.0.weight": [256, 128, 3, 3],
        "pts_neck.deblocks.1.0.weight": [256, 256, 2, 2],
        "reduc_conv.conv.weight": [512, 768, 3, 3],
        "reduc_conv.bn.running_var": [512],
        "seblock.att.1.bias": [512],
        "pts_bbox_head.shared_conv.weight": [128, 512, 3, 3],
        "pts_bbox_head.heatmap_head.0.bn.weight": [128],
        "pts_bbox_head.class_encoding.weight": [128, 10, 1],
        "pts_bbox_head.decoder.0.self_attn.in_proj_weight": [384, 128],
        "pts_bbox_head.decoder.0.cross_posembed.position_embedding_head.3.weight": [128, 128, 1],
        "pts_bbox_head.prediction_heads.0.rot.1.weight": [2, 64, 1],
    }
    assert {name: shape for name, shape in published.items() if shape not in shapes.get(name, [])} == {}


def test_one_swin_transformer_has_no_composite_names():
    with torch.device("meta"):
        names = {PKU.name(name) for name in FusionModel(configuration("bevfusion-pku")).state_dict()}
    assert {"img_backbone.patch_embed.proj.weight", "img_backbone.layers.3.blocks.1.norm2.bias"} <= names
    assert not [name for name in names if "cb_" in name]


def test_a_released_file_gives_the_same_model(model, tmp_path, caplog, capsys):
    # Either version of spconv, each with one of the two models.
    version = 2 if model.config is DUAL else 1
    torch.save({"meta": {"epoch": 6}, "state_dict": released(model, version)}, tmp_path / "epoch_6.pth")
    with caplog.at_level(logging.WARNING):
        loaded = load_weights(tmp_path / "epoch_6.pth", model.config)
    assert not caplog.records
    assert "tensors of ADLab-AutoDrive's BEVFusion" in " ".join(capsys.readouterr().err.split())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.config == model.config


def test_restoring_undoes_converting(model):
    theirs = released(model, 2)
    for ours, tensor in model.state_dict().items():
        assert torch.equal(PKU.restore(ours, tensor), theirs[PKU.name(ours)]), ours


def test_kernels_over_maps_give_the_published_maps_transposed(model):
    """The same weights without exchanged axes run on maps [y, x], as in the published code."""
    published = FusionModel(model.config).eval()
    by_y, theirs = replace(PKU, y_first=False), released(model)
    for name, tensor in published.state_dict().items():
        if not is_constant(name) and tensor.dim() != 5:
            tensor.copy_(by_y.convert(name, tensor, theirs[PKU.name(name)]))
    folded = torch.randn(1, model.encoders["camera"].view_transform.downsample[0].in_channels, 8, 12)
    lidar = torch.randn(1, model.encoders["lidar"].backbone.out_channels, 8, 12)

    def heat(one, folded, lidar):
        camera = one.encoders["camera"].view_transform.downsample(folded)
        fused = one.fuser([camera, one.encoders["lidar"].decoder(lidar)])
        return one.head.heatmap_head(one.head.shared_conv(fused))

    with torch.no_grad():
        expected = heat(published, folded.mT, lidar.mT).mT
        found = heat(model, folded, lidar)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(heat(model, folded.mT, lidar.mT).mT, found, atol=1e-2)


def test_sparse_kernels_convolve_voxels_in_the_published_order():
    """A fully occupied grid turns a sparse convolution into a dense one, here over (z, y, x)."""
    torch.manual_seed(0)
    tensors = released(FusionModel(TOY))
    kernel = tensors["pts_middle_encoder.conv_input.0.weight"]
    layer = from_released(tensors, TOY, origin="test").encoders["lidar"].backbone.input_conv[0]
    volume = torch.randn(1, 5, 4, 5, 6)
    coordinates = F.pad(torch.ones(4, 5, 6).nonzero(), (1, 0)).int()
    voxels = spconv.SparseConvTensor(volume[0].flatten(1).t().contiguous(), coordinates, [4, 5, 6], 1)
    published = F.conv3d(volume.permute(0, 1, 4, 3, 2), kernel.permute(4, 3, 0, 1, 2), padding=1)
    torch.testing.assert_close(layer(voxels).dense(), published.permute(0, 1, 4, 3, 2), rtol=1e-4, atol=1e-5)


def test_weights_of_another_of_our_models_are_refused_in_one_line(tmp_path):
    torch.save({"state_dict": released(FusionModel(DUAL))}, tmp_path / "dual.pth")
    mit = FusionModel(configuration("bevfusion-mit-toy")).state_dict()
    torch.save({MMDET3D.name(name): tensor for name, tensor in mit.items()}, tmp_path / "mit.pth")
    for file in ("dual", "mit"):
        with pytest.raises(
            UserError, match=rf"{file}\.pth does not fit model 'bevfusion-pku-toy': \d+ tensors"
        ) as told:
            load_weights(tmp_path / f"{file}.pth", TOY)
        assert str(told.value).endswith("choose the model that it was made for, or another checkpoint")
        assert "\n" not in str(told.value)
