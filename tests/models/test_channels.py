"""Channels of BEVFusion models: removed is the same as masked, gradients flow, and a checkpoint holds the plan."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from altermoma_ray.models.checkpoint import load_checkpoint, save_checkpoint
from altermoma_ray.models.configurations.camera import CoarseResNetCameraConfig
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.pruning import MaskHolder, Masks, Target, prunable_weights
from altermoma_ray.pruning.channels import keep_masks
from altermoma_ray.pruning.granularity import GRANULARITIES
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import groups_of
from examples import own_model as own

RESNET = "bevfusion-mit-r101-second-toy"
PKU = "bevfusion-pku-toy"
CENTERPOINT, PILLARS = "bevfusion-mit-centerpoint-toy", "bevfusion-mit-pointpillars-toy"
ANCHORS = "bevfusion-pku-r101-pointpillars-toy"
TOYS = ("bevfusion-mit-toy", "bevfusion-mit-seg-toy", RESNET, PKU)
CHOICES = ("query_labels",)


def model_of(name):
    """A toy whose norms are away from their initial values, so that a forgotten bias shows."""
    torch.manual_seed(0)
    model = (configuration(name) if isinstance(name, str) else name).build().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def bound(model):
    return GRANULARITIES["channel"].bound_to(model, lambda _: pytest.fail("the model tells its own channels"))


def random_masks(model, channels, share, seed):
    """Masks by scores drawn at random, which prune about the given share of the weights."""
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable_weights(model).items()}
    # Means over a channel of independent draws are all alike: give each channel a worth of its own.
    for coupling in channels.couplings:
        worth = torch.rand(coupling.channels, generator=generator)
        for part in coupling.slices:
            if part.tensor in scores:
                for entry in part.entries.unbind(1):
                    scores[part.tensor].movedim(part.dim, 0)[entry] *= worth.view(
                        -1, *[1] * (scores[part.tensor].ndim - 1)
                    )
    return channels.select(scores, Target(groups=groups_of(model), sparsity=share))


@pytest.mark.parametrize(
    ("name", "share", "seed"),
    [
        *((TOYS[0], 0.3, 0), (TOYS[0], 0.3, 1), (TOYS[0], 0.5, 2), (TOYS[0], 0.5, 3)),
        *((TOYS[1], 0.3, 0), (TOYS[1], 0.5, 1)),
        *((RESNET, 0.3, 0), (RESNET, 0.3, 1), (RESNET, 0.5, 2), (RESNET, 0.5, 3)),
        *(("bevfusion-r-toy", 0.5, 0), ("bevfusion-trio-toy", 0.5, 1)),
        *((PKU, 0.3, 0), (PKU, 0.5, 1)),
        *((CENTERPOINT, 0.5, 0), (PILLARS, 0.5, 0), (ANCHORS, 0.5, 0)),
    ],
)
def test_removed_channels_are_masked_channels(batch, name, share, seed):
    model = model_of(name)
    channels = bound(model)
    masks = random_masks(model, channels, share, seed)
    assert share <= masks.sparsity() < share + 0.02
    masked = copy.deepcopy(model)
    with MaskHolder(masked, channels.held(masks)), torch.no_grad():
        small = channels.finalise(masked, masks)
        for away in (frozenset(), *(frozenset({sensor}) for sensor in model.modalities)):
            # Maps, not proposals: equal heats of two cells may change places by rounding.
            expected, found = (one.decoder(one.fuser(one._encode(batch, away))) for one in (masked, small))
            torch.testing.assert_close(small_head(small, found), small_head(masked, expected), rtol=1e-4, atol=1e-4)
    kept = sum(weight.numel() for weight in prunable_weights(small).values())
    assert kept == channels.cost(masks).weights_left


def test_coarse_features_that_the_fuser_reads_from_the_splat_lose_channels_too(batch):
    toy = configuration("bevfusion-r-toy")
    camera = CoarseResNetCameraConfig(
        blocks=toy.camera.blocks,
        width=toy.camera.width,
        levels=(16, 16, 16, 16),
        channels=24,
        depth_bins=toy.camera.depth_bins,
        grid_x=(-25.6, 25.6, 51.2 / 48),
        grid_y=(-25.6, 25.6, 51.2 / 48),
    )
    # Pictures of 64 × 128 pixels, which all stages halve.
    seen = replace(batch, images=torch.randn(2, 6, 3, 64, 128, generator=torch.Generator().manual_seed(1)))
    inputs = toy.inputs.model_copy(update={"image_size": (64, 128)})
    model = model_of(toy.model_copy(update={"camera": camera, "inputs": inputs}))
    channels = bound(model)
    assert "encoders.camera.view_transform.lift_net.0" in [one.name for one in channels.couplings]
    masks = random_masks(model, channels, 0.5, seed=6)
    masked = copy.deepcopy(model)
    with MaskHolder(masked, channels.held(masks)), torch.no_grad():
        small = channels.finalise(masked, masks)
        expected, found = (one.decoder(one.features(seen)["fused"]) for one in (masked, small))
        torch.testing.assert_close(small_head(small, found), small_head(masked, expected), rtol=1e-4, atol=1e-4)
    assert small.encoders["camera"].out_channels < 24


def small_head(model, bev):
    outputs = model.head(bev)
    if "query_labels" in outputs:
        return outputs["dense_heatmap"]
    return torch.cat(list(outputs.values()), dim=1)


def by_place(outputs):
    """Outputs whose queries stand by the place of their boxes: equal heats of two cells may be ranked either way."""
    order = outputs["center"][:, :1].argsort(dim=2)
    return {
        key: value if value.ndim == 4 or key in CHOICES else value.gather(2, order.expand(-1, value.shape[1], -1))
        for key, value in outputs.items()
    }


@pytest.mark.parametrize("name", ["bevfusion-mit-toy", RESNET, PKU])
def test_a_smaller_model_answers_as_the_masked_one_and_learns(batch, name):
    model = model_of(name)
    channels = bound(model)
    masks = random_masks(model, channels, 0.5, seed=4)
    masked = copy.deepcopy(model)
    with MaskHolder(masked, channels.held(masks)), torch.no_grad():
        small = channels.finalise(masked, masks)
        expected, found = masked(batch), small(batch)
    for key in expected.keys() - set(CHOICES):
        torch.testing.assert_close(by_place(found)[key], by_place(expected)[key], rtol=1e-4, atol=1e-4)
    sum(value.float().square().mean() for key, value in small.train()(batch).items() if key not in CHOICES).backward()
    without = [name for name, parameter in small.named_parameters() if parameter.grad is None]
    assert not without


def test_every_convolution_of_a_centerpoint_head_and_every_layer_of_pillars_can_lose_channels():
    names = {coupling.name for coupling in bound(model_of(CENTERPOINT)).couplings}
    head = [name for name in names if name.startswith("head.")]
    assert "head.shared_conv.conv" in head
    assert len(head) == 1 + 6 * 6
    names = {coupling.name for coupling in bound(model_of(PILLARS)).couplings}
    of_lidar = {name.removeprefix("encoders.lidar.backbone.") for name in names if name.startswith("encoders.lidar.")}
    assert of_lidar == {f"pts_voxel_encoder.pfn_layers.{layer}.linear" for layer in (0, 1)}


def test_depth_bins_stage_widths_and_queries_stay():
    model = model_of("bevfusion-mit-toy")
    small = bound(model).finalise(model, random_masks(model, bound(model), 0.5, seed=5))
    view = small.encoders["camera"].view_transform
    assert view.bins == model.encoders["camera"].view_transform.bins
    assert view.lift_net[-1].out_channels == view.bins + view.channels
    for norm, before in zip(
        small.encoders["camera"].backbone.output_norms, model.encoders["camera"].backbone.output_norms, strict=True
    ):
        assert norm.normalized_shape == before.normalized_shape
    assert small.head.shared_conv.out_channels == model.head.shared_conv.out_channels


def test_all_convolutions_of_a_resnet_lose_channels_and_a_stage_is_one_coupling():
    model = model_of(RESNET)
    couplings = {one.name: one for one in bound(model).couplings}
    backbone = "encoders.camera.backbone."
    convolutions = {
        f"{backbone}{name}.weight"
        for name, module in model.encoders["camera"].backbone.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    outputs = {part.tensor for one in couplings.values() for part in one.slices if part.dim == 0}
    assert convolutions <= outputs
    # The third stage: what is added up in its four blocks, read by its other blocks, the fourth stage and the neck.
    stage = couplings[f"{backbone}layer3.0.downsample.0"]
    assert stage.channels == model.config.camera.stage_channels[1]
    of_kernels = {(part.tensor.removeprefix(backbone), part.dim) for part in stage.slices if "bn" not in part.tensor}
    assert of_kernels - {(f"layer3.0.downsample.1.{name}", 0) for name in ("bias", "running_mean", "running_var")} == {
        ("layer3.0.downsample.0.weight", 0),
        ("layer3.0.downsample.1.weight", 0),
        *((f"layer3.{block}.conv3.weight", 0) for block in range(4)),
        *((f"layer3.{block}.conv1.weight", 1) for block in (1, 2, 3)),
        ("layer4.0.conv1.weight", 1),
        ("layer4.0.downsample.0.weight", 1),
        ("encoders.camera.neck.lateral_convs.1.0.weight", 1),
    }
    # On the neck's second level the map of the third stage comes first, then the map of the fourth.
    neck = {
        name: next(part for part in couplings[name].slices if ".lateral_convs.1.0.weight" in part.tensor)
        for name in (stage.name, f"{backbone}layer4.0.downsample.0")
    }
    assert [part.entries.flatten().tolist() for part in neck.values()] == [
        list(range(stage.channels)),
        list(range(stage.channels, 3 * stage.channels)),
    ]


def test_heads_of_the_transfusion_decoder_go_as_a_whole():
    model = model_of("bevfusion-mit-toy")
    channels = bound(model)
    (attention,) = (layer.self_attn for layer in model.head.decoder)
    before = attention.heads
    (coupling,) = (one for one in channels.couplings if one.name == "head.decoder.0.self_attn")
    assert (coupling.channels, coupling.unit) == (before, attention.width)
    kept = {one.name: torch.ones(one.channels, dtype=torch.bool) for one in channels.couplings}
    kept[coupling.name][0] = False
    shapes = {name: weight.shape for name, weight in prunable_weights(model).items()}
    masks = Masks(keep_masks(shapes, channels.couplings, kept))
    masked = copy.deepcopy(model)
    with MaskHolder(masked, channels.held(masks)), torch.no_grad():
        small = channels.finalise(masked, masks)
        assert small.head.decoder[0].self_attn.heads == before - 1
        assert small.head.decoder[0].multihead_attn.heads == before
        features = torch.randn(1, model.decoder.out_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(small.head(features), masked.head(features), rtol=1e-5, atol=1e-5)


def test_no_entry_belongs_to_two_couplings():
    for name in TOYS:
        model = model_of(name)
        couplings = bound(model).couplings
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        for dim in range(5):
            lines = {}
            for coupling in couplings:
                for part in coupling.slices:
                    if part.dim == dim:
                        taken = lines.setdefault(part.tensor, torch.zeros(shapes[part.tensor][dim], dtype=torch.int64))
                        taken.index_add_(0, part.entries.flatten(), torch.ones(part.entries.numel(), dtype=torch.int64))
            assert all(int(line.max()) == 1 for line in lines.values())


@pytest.mark.parametrize("name", ["bevfusion-mit-toy", RESNET, PKU])
def test_a_checkpoint_rebuilds_the_smaller_model(batch, name, tmp_path):
    model = model_of(name)
    channels = bound(model)
    masks = random_masks(model, channels, 0.5, seed=6)
    small = channels.finalise(model, masks)
    place = Location.parse(tmp_path / "model.safetensors")
    save_checkpoint(place, small, {}, plan=channels.plan(masks))
    rebuilt, _ = load_checkpoint(place)
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {n: t.shape for n, t in small.state_dict().items()}
    with torch.no_grad():
        expected, found = small.eval()(batch), rebuilt(batch)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert place.read_bytes()[:8] != b""
    assert json.loads(json.dumps(channels.plan(masks)))["granularity"] == "channel"


def test_a_pruned_model_can_be_pruned_again(batch, tmp_path):
    model = model_of("bevfusion-mit-toy")
    place = Location.parse(tmp_path / "model.safetensors")
    for seed in (7, 8):
        channels = bound(model)
        masks = random_masks(model, channels, 0.3, seed)
        masked = copy.deepcopy(model)
        with MaskHolder(masked, channels.held(masks)), torch.no_grad():
            small = channels.finalise(masked, masks)
            maps = [one.decoder(one.fuser(one._encode(batch, frozenset()))) for one in (masked, small)]
            expected, found = (small_head(one, bev) for one, bev in zip((masked, small), maps, strict=True))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        save_checkpoint(place, small, {}, plan=channels.plan(masks))
        # Rebuilt from the unpruned architecture: the second plan holds the first one.
        model, _ = load_checkpoint(place)
        assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in model.state_dict().items())
    left = sum(weight.numel() for weight in prunable_weights(model).values())
    whole = sum(weight.numel() for weight in prunable_weights(model_of("bevfusion-mit-toy")).values())
    assert 0.49 <= 1 - left / whole < 0.54


def test_groups_reach_ratios_of_their_own():
    model = model_of("bevfusion-mit-toy")
    channels, groups = bound(model), groups_of(model)
    scores = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
    ratios = {"camera": 0.5, "lidar": 0.3, "fusion": 0.4}
    sizes = {group: sum(scores[name].numel() for name in names) for group, names in groups.items()}
    total = sum(ratios[group] * size for group, size in sizes.items()) / sum(sizes.values())
    masks = channels.select(scores, Target(groups=groups, sparsity=total, ratios=ratios))
    for group, ratio in ratios.items():
        assert ratio - 0.01 <= masks.sparsity(groups[group]) <= ratio + 0.04, group
    kept = keep_masks(
        {name: score.shape for name, score in scores.items()},
        channels.couplings,
        {coupling.name: torch.ones(coupling.channels, dtype=torch.bool) for coupling in channels.couplings},
    )
    assert all(bool(mask.all()) for mask in kept.values())


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_model_of_nobody_s_loses_channels_too(share):
    model, data = own.trained(), own.Recordings()
    dataset = data.dataset(data.rows("validation", limit=8), augment=False, seed=0)
    batch = data.collate([dataset[position] for position in range(len(dataset))])
    channels = GRANULARITIES["channel"].bound_to(model, lambda one: one(batch))
    masks = random_masks(model, channels, share, seed=1)
    masked = copy.deepcopy(model).eval()
    with MaskHolder(masked, channels.held(masks)), torch.no_grad():
        small = channels.finalise(masked, masks)
        torch.testing.assert_close(small(batch), masked(batch), rtol=1e-4, atol=1e-5)
    assert sum(weight.numel() for weight in prunable_weights(small).values()) == masks.kept()
