from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration

SENSORS = ("camera", "lidar")
"""Of the toy, in the fuser's order."""
PUBLISHED = {
    "encoders.camera.backbone": 27_520_506,
    "encoders.camera.neck": 1_591_296,
    "encoders.camera.view_transform": 1_610_726,
    "encoders.lidar": 2_694_352,
    "fuser": 774_656,
    "decoder": 4_576_768,
    "head": 1_034_910,
}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def model() -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(configuration("bevfusion-mit-toy"))


def test_published_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = FusionModel(configuration("bevfusion-mit"))
    assert {part: parameters(model.get_submodule(part)) for part in PUBLISHED} == PUBLISHED
    assert parameters(model) == 39_803_214
    assert len(model.state_dict()) == 582  # tensors of the released files, constants included


def test_the_resnet_101_variant_has_the_published_backbone_and_all_else_in_common_but_the_neck():
    with torch.device("meta"):
        model = FusionModel(configuration("bevfusion-mit-r101-second"))
    # The neck reads 512 + 256, and 1024 + 2048 channels, instead of 192 + 256 and 384 + 768.
    neck = PUBLISHED["encoders.camera.neck"] + 256 * (512 - 192 + 1024 + 2048 - 384 - 768)
    own = {"encoders.camera.backbone": 44_549_160 - 2_049_000, "encoders.camera.neck": neck}
    assert {part: parameters(model.get_submodule(part)) for part in PUBLISHED} == PUBLISHED | own


def test_toy_keeps_the_scale_of_the_prototype_and_fits_its_checkpoint(model):
    sizes = dict.fromkeys(("camera", "lidar", "fusion"), 0)
    for name, parameter in model.named_parameters():
        sizes[model.group_of(name)] += parameter.numel()
    assert 700_000 < sizes["camera"] < 850_000
    assert 120_000 < sizes["lidar"] < 180_000
    assert 170_000 < sizes["fusion"] < 250_000
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) < 4.8e6


def test_pillars_keep_the_published_decoder():
    with torch.device("meta"):
        model = FusionModel(configuration("bevfusion-mit-pointpillars"))
    assert parameters(model.encoders["lidar"]) == 10 * 32 + 64 * 64 + 2 * (32 + 64)
    # Blocks 64 → 64 with 1 + 3, 64 → 128 with 1 + 5 and 128 → 256 with 1 + 5 convolutions, each with its norm; then
    # to 128 channels by kernels of 2 × 2, 1 × 1 and 2 × 2.
    blocks = 4 * (9 * 64 * 64 + 128) + (9 * 64 * 128 + 5 * 9 * 128 * 128 + 6 * 256)
    blocks += 9 * 128 * 256 + 5 * 9 * 256 * 256 + 6 * 512
    assert parameters(model.decoder) == blocks + 128 * (4 * 64 + 128 + 4 * 256) + 3 * 256
    assert model.decoder.out_channels == 384
    assert parameters(model.fuser) == 9 * (80 + 64) * 64 + 128
    assert parameters(model) == 36_086_270


def test_a_centerpoint_head_is_all_that_its_model_changes():
    with torch.device("meta"):
        model = FusionModel(configuration("bevfusion-mit-centerpoint"))
    found = {part: parameters(model.get_submodule(part)) for part in PUBLISHED}
    assert found == PUBLISHED | {"head": 1_667_142}
    assert parameters(model) == 40_435_446


@pytest.mark.parametrize("kind", ["r101-second", "centerpoint", "pointpillars"])
def test_the_other_toys_are_about_as_large(kind):
    model = FusionModel(configuration(f"bevfusion-mit-{kind}-toy"))
    assert 1_000_000 < parameters(model) < 1_200_000
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) < 4.8e6


def test_groups_follow_the_modules(model):
    assert model.group_of("encoders.camera.neck.lateral_convs.0.0.weight") == "camera"
    assert model.group_of("encoders.lidar.backbone.input_conv.0.weight") == "lidar"
    for part in ("fuser", "decoder", "head"):
        assert {model.group_of(f"{part}.{name}") for name, _ in model.get_submodule(part).named_parameters()} == {
            "fusion"
        }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sensor", SENSORS)
def test_masking_a_sensor_equals_zeroing_its_parameters(model, batch, sensor, training):
    zeroed = copy.deepcopy(model)
    for parameter in zeroed.encoders[sensor].parameters():
        torch.nn.init.zeros_(parameter)
    model.train(training)
    zeroed.train(training)
    masked, expected = model(batch, masked=frozenset({sensor})), zeroed(batch)
    assert masked.keys() == expected.keys()
    for name, tensor in masked.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_masked_branch_is_not_computed(model, batch, sensor):
    ran = []
    for name, encoder in model.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: ran.append(name))
    maps = model.features(batch, masked=frozenset({sensor}))
    assert ran == [other for other in SENSORS if other != sensor]
    assert maps[sensor].abs().sum() == 0
    assert maps[sensor].shape == model.features(batch)[sensor].shape


def test_both_sensors_masked_still_runs(model, batch):
    outputs = model.eval()(batch, masked=frozenset(SENSORS))
    for tensor in outputs.values():
        assert torch.equal(tensor[0], tensor[1])  # nothing tells the samples apart


def test_unknown_sensor_is_refused(model, batch):
    with pytest.raises(ValueError, match="`masked` may hold camera, lidar, but got radar"):
        model(batch, masked=frozenset({"radar"}))


def test_three_sensors_have_a_group_each_and_any_two_can_be_masked(batch):
    torch.manual_seed(0)
    model = FusionModel(configuration("bevfusion-trio-toy")).eval()
    assert model.modalities == ("radar", "lidar", "camera")
    groups = {model.group_of(name) for name, _ in model.named_parameters()}
    assert groups == {*model.modalities, "fusion"}
    with torch.no_grad():
        maps = model.features(batch, masked=frozenset({"camera", "lidar"}))
        assert list(maps) == ["camera", "lidar", "radar", "fused"]
        assert [name for name, one in maps.items() if one.abs().sum() == 0] == ["camera", "lidar"]
    with pytest.raises(ValueError, match="`masked` may hold camera, lidar, radar, but got sonar"):
        model(batch, masked=frozenset({"sonar"}))


def test_the_radar_branch_reads_the_radar_alone(batch):
    torch.manual_seed(0)
    model = FusionModel(configuration("bevfusion-r-toy")).eval()
    other = replace(batch, images=torch.zeros_like(batch.images), points=[points[:1] for points in batch.points])
    with torch.no_grad():
        before, after = model.features(batch), model.features(other)
    assert torch.equal(before["radar"], after["radar"])
    assert not torch.equal(before["camera"], after["camera"])
    # No part reads the LiDAR: its points may be gone.
    without = replace(batch, points=[points[:0] for points in batch.points])
    with torch.no_grad():
        assert torch.equal(model.features(without)["fused"], before["fused"])


def test_samples_do_not_see_each_other_in_evaluation(model, batch):
    model.eval()
    together = model.features(batch)
    alone = model.features(batch.samples(1, 2))
    for name, features in together.items():
        torch.testing.assert_close(features[1:], alone[name], atol=1e-4, rtol=1e-4)


def test_every_parameter_receives_a_gradient(model, batch):
    outputs = model(batch)
    sum(tensor.square().mean() for tensor in outputs.values() if tensor.requires_grad).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_maps_of_pillars_are_told_by_the_cells_of_the_head(batch):
    model = FusionModel(configuration("bevfusion-mit-pointpillars-toy")).eval()
    with torch.no_grad(), model.distillable() as distillable:
        features, own = model.features(batch), distillable(model(batch))
    assert {tuple(bev.shape[2:]) for bev in features.values()} == {(48, 48)}
    assert own["lidar"].shape == (2, 64, 96, 96)
    torch.testing.assert_close(features["fused"][:, :, 3, 5], own["fused"][:, :, 6:8, 10:12].mean((2, 3)))
    torch.testing.assert_close(features["camera"], own["camera"])
    with torch.no_grad():
        masked = model.features(batch, frozenset({"lidar"}))
    assert masked["lidar"].shape == features["lidar"].shape
    assert not masked["lidar"].any()


@pytest.mark.parametrize("name", ["bevfusion-mit-toy", "bevfusion-mit-seg-toy"])
def test_a_pruned_copy_can_learn_from_the_maps_and_the_dense_outputs(name, batch):
    torch.manual_seed(0)
    model = FusionModel(configuration(name)).eval()
    with torch.no_grad(), model.distillable() as distillable:
        outputs = model(batch)
        tensors = distillable(outputs)
        maps = model.features(batch)
    dense, logits = ("probabilities", "logits") if "seg" in name else ("dense_heatmap", "dense_heatmap")
    assert tensors.keys() == {*maps, dense}
    for sensor, expected in maps.items():
        assert torch.equal(tensors[sensor], expected), sensor
    assert torch.equal(tensors[dense], outputs[logits].sigmoid())
    assert not any(module._forward_hooks for module in model.modules())
