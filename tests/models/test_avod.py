"""AVOD-FPN: published figures, crops, anchors, and views that are left out of the mean."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from altermoma_ray.errors import UserError
from altermoma_ray.models.avod import Avod
from altermoma_ray.models.configurations.avod import AvodConfig
from altermoma_ray.models.configurations.avod_fpn import avod_configuration
from altermoma_ray.models.encoders.vgg_pyramid import VggPyramid
from altermoma_ray.models.layers.crops import crop_and_resize
from altermoma_ray.models.layers.ground_anchors import (
    GroundAnchors,
    decode,
    encode,
    map_shape,
    places_in_bev,
    places_in_picture,
)
from altermoma_ray.models.layers.suppression import best_apart
from altermoma_ray.pruning.channels.checking import check_couplings
from altermoma_ray.pruning.criteria import SynFlow
from altermoma_ray.pruning.criteria.problem import Problem
from altermoma_ray.pruning.targets import Target
from altermoma_ray.testing import ModelContract
from altermoma_ray.workloads.workload import groups_of
from tests.kitti_frames import make_batch, plane_of

CARS, TOY = avod_configuration("avod-fpn-cars"), avod_configuration("avod-fpn-toy")
LEVEL = torch.tensor([0.0, -1.0, 0.0, 1.65])


def toy() -> Avod:
    torch.manual_seed(0)
    return TOY.build()


class TestToy(ModelContract):
    def make_model(self):
        return toy()

    def make_batch(self):
        return make_batch(TOY.inputs)


def test_parameters_are_as_many_as_published():
    """2.45 M in each extractor, 0.14 M in the first stage, 11.6 M in the second, 16.7 M in all."""
    with torch.device("meta"):
        extractors = {view: VggPyramid(CARS.camera, channels) for view, channels in (("camera", 3), ("lidar", 6))}
    model = CARS.build()
    parts, groups = Counter(), Counter()
    for name, parameter in model.named_parameters():
        parts[name.partition(".")[0]] += parameter.numel()
        groups[model.group_of(name)] += parameter.numel()
    assert [sum(p.numel() for p in one.parameters()) for one in extractors.values()] == pytest.approx(
        [2.45e6] * 2, rel=5e-3
    )
    assert parts["proposals"] == pytest.approx(0.139e6, rel=5e-3)
    assert parts["boxes"] == 1568 * 2048 + 2 * 2048**2 + 3 * 2048 + 2049 * (2 + 10 + 2)
    assert sum(groups.values()) == pytest.approx(16.7e6, rel=2e-3)
    assert groups["fusion"] == parts["proposals"] + parts["boxes"]
    assert sum(p.numel() for p in toy().parameters()) < 1e6


@pytest.mark.slow
def test_shapes_at_full_size():
    model, batch = CARS.build().eval(), make_batch(CARS.inputs, counts=(5,), points=3000)
    with torch.no_grad():
        outputs = model(batch)
    assert outputs["camera"][0].shape == (32, 360, 1200)
    assert outputs["lidar"][0].shape == (32, 700, 800)
    assert outputs["proposals"][0].shape == (300, 6)
    assert outputs["classes"][0].shape == (300, 2)
    assert outputs["anchors"][0].shape == outputs["offsets"][0].shape
    assert all(part.isfinite().all() for parts in outputs.values() for part in parts)


def test_rows_that_the_poolings_cannot_divide_are_cut_off_again():
    pyramid = VggPyramid(TOY.lidar, in_channels=6).eval()
    view = torch.randn(1, 6, 44, 48)
    padded = functional.pad(view, (0, 0, 4, 0))
    assert torch.allclose(pyramid(view), pyramid(padded)[:, :, 4:], atol=1e-6)


def bilinear(features, box, size):
    """Crop as the formula of TensorFlow's ``crop_and_resize`` has it, point by point."""
    channels, height, width = features.shape
    crop = torch.zeros(channels, size, size)
    for row in range(size):
        for column in range(size):
            y = (box[1] + row / (size - 1) * (box[3] - box[1])) * (height - 1)
            x = (box[0] + column / (size - 1) * (box[2] - box[0])) * (width - 1)
            if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                i, j = int(y), int(x)
                k, m = min(i + 1, height - 1), min(j + 1, width - 1)
                v, u = y - i, x - j
                upper = features[:, i, j] * (1 - u) + features[:, i, m] * u
                lower = features[:, k, j] * (1 - u) + features[:, k, m] * u
                crop[:, row, column] = upper * (1 - v) + lower * v
    return crop


@pytest.mark.parametrize("size", [3, 7])
def test_crops_are_the_bilinear_formula(size):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 9, 13, generator=generator, dtype=torch.float64)
    corners = torch.rand(30, 4, generator=generator, dtype=torch.float64) * 1.6 - 0.3  # some reach over the edges
    boxes = torch.cat((torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])), 1)
    found = crop_and_resize(features, boxes, size)
    wanted = torch.stack([bilinear(features, box.tolist(), size) for box in boxes])
    assert torch.allclose(found, wanted.double(), atol=1e-6)


def test_a_crop_off_the_map_or_without_numbers_is_zero():
    boxes = torch.tensor([[1.1, 0.0, 1.4, 0.5], [float("nan")] * 4, [0.0, 0.0, float("inf"), 1.0]])
    crops = crop_and_resize(torch.ones(1, 4, 4), boxes, 3)
    assert crops[:2].eq(0).all()
    assert crops.isfinite().all()


def test_anchors_stand_on_the_ground_all_over_the_area():
    anchors = GroundAnchors(CARS.proposals, CARS.inputs).on_ground(plane_of(0))
    assert len(anchors) == 160 * 140 * 2 * 2
    height = anchors[:, :3] @ plane_of(0)[:3] + plane_of(0)[3]
    assert height.abs().max() < 1e-4
    assert anchors[:, 0].min() == -39.75
    assert anchors[:, 2].max() == 69.75
    shapes = {tuple(row) for row in anchors[:, 3:].tolist()}
    assert shapes == {
        tuple(torch.tensor(sides).tolist())
        for length, width, height in CARS.proposals.sizes[0]
        for sides in ((length, height, width), (width, height, length))
    }


def test_anchors_without_a_point_in_their_area_are_dropped():
    anchors = GroundAnchors(CARS.proposals, CARS.inputs)
    high, low = torch.tensor([[10.02, 0.65, 30.02]]), torch.tensor([[-20.0, 1.6, 30.0], [0.0, -3.0, 40.0]])
    kept = anchors(LEVEL, torch.cat((high, low)))
    centre, half = kept[:, [0, 2]], kept[:, [3, 5]] / 2
    # A cell that an anchor touches counts as a whole.
    assert ((centre - torch.tensor([10.02, 30.02])).abs() <= half + CARS.inputs.cell).all()
    everything = anchors.on_ground(LEVEL)
    covers = ((everything[:, [0, 2]] - torch.tensor([10.02, 30.02])).abs() < everything[:, [3, 5]] / 2).all(1)
    assert int(covers.sum()) <= len(kept) < 1.3 * int(covers.sum())
    assert len(anchors(LEVEL, low)) == 0


def test_a_frame_without_anchors_has_no_proposals():
    batch = make_batch(TOY.inputs, counts=(0,), points=0)
    outputs = toy()(batch)
    assert [len(outputs[name][0]) for name in ("anchors", "proposals", "classes")] == [0, 0, 0]


def test_changes_of_anchors_lead_to_their_boxes_and_back():
    generator = torch.Generator().manual_seed(2)
    anchors, boxes = (torch.rand(20, 6, generator=generator) + torch.tensor([9, 1, 9, 1, 1, 1]) for _ in range(2))
    assert torch.allclose(decode(encode(boxes, anchors), anchors), boxes, atol=1e-5)
    assert decode(torch.full((1, 6), 1e9), anchors[:1]).isfinite().all()


def test_places_in_both_views_by_hand():
    anchor = torch.tensor([[1.0, 1.65, 20.0, 4.0, 1.5, 2.0]])
    # x from -1 to 3 of -40..40, and z from 19 to 21 of 0..70, whose far end is row 0.
    assert places_in_bev(anchor, CARS.inputs)[0].tolist() == pytest.approx([39 / 80, 49 / 70, 43 / 80, 51 / 70])
    projection = torch.tensor([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
    place = places_in_picture(anchor, projection, (360, 1200))[0]
    # The near face, at 19 m, is the largest; its top is at 0.15 m below the camera, seen lowest from 21 m away.
    wanted = [600 - 700 / 19, 180 + 700 * 0.15 / 21, 600 + 700 * 3 / 19, 180 + 700 * 1.65 / 19]
    assert (place * torch.tensor([1200, 360, 1200, 360])).tolist() == pytest.approx(wanted, rel=1e-5)
    behind = anchor - torch.tensor([0, 0, 20.5, 0, 0, 0])
    assert places_in_picture(behind, projection, (360, 1200)).isfinite().all()


def test_suppression_of_the_best_alone_is_that_of_all():
    generator = torch.Generator().manual_seed(3)
    low = 8 * torch.rand(600, 2, generator=generator)
    boxes, scores = torch.cat((low, low + 2), 1), torch.rand(600, generator=generator)
    everything = best_apart(boxes, scores, overlap=0.5, most=600)
    assert best_apart(boxes, scores, overlap=0.5, most=5).tolist() == everything[:5].tolist()
    # Many copies in front: the first try does not find enough, and the next one takes more rows.
    copies = torch.cat((boxes[:1].expand(80, 4), boxes))
    ranked = torch.cat((torch.full((80,), 2.0), scores))
    assert len(best_apart(copies, ranked, overlap=0.5, most=5)) == 5


def fused_input(model, batch, masked=frozenset()):
    """The first stage's input of the first frame."""
    seen = []
    handle = model.proposals.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch, masked)
    handle.remove()
    return seen[0]


def test_a_masked_view_is_left_out_of_the_mean():
    model, batch = toy().eval(), make_batch(TOY.inputs, counts=(2,))
    both, camera, lidar = (fused_input(model, batch, frozenset(masked)) for masked in ((), ("lidar",), ("camera",)))
    assert torch.allclose(both, (camera + lidar) / 2, atol=1e-6)
    assert camera.abs().max() > 0
    assert lidar.abs().max() > 0
    assert not torch.equal(camera, lidar)


def test_maps_show_what_each_view_holds_of_a_box_at_each_place():
    model, batch = toy().eval(), make_batch(TOY.inputs)
    with torch.no_grad():
        maps = model.features(batch)
        shape = (len(batch), TOY.camera.channels[0], *map_shape(TOY.proposals, TOY.inputs))
        assert {name: found.shape for name, found in maps.items()} == dict.fromkeys(("camera", "lidar", "fused"), shape)
        assert torch.allclose(maps["fused"], (maps["camera"] + maps["lidar"]) / 2, atol=1e-6)
        # The third cell along x and the fifth along z, by hand: its box stands on the ground.
        x = TOY.inputs.x_range[0] + 2.5 * TOY.proposals.stride
        z = TOY.inputs.z_range[0] + 4.5 * TOY.proposals.stride
        a, b, c, d = batch.planes[1].tolist()
        box = torch.tensor([[x, -(a * x + c * z + d) / b, z, *model.anchors.shapes.mean(dim=0).tolist()]])
        (features, _) = model.encoders["lidar"](batch.bev[1:])
        wanted = crop_and_resize(features[0], places_in_bev(box, TOY.inputs), TOY.boxes.crop).mean(dim=(2, 3))[0]
        assert wanted.abs().max() > 0
        assert torch.allclose(maps["lidar"][1, :, 2, 4], wanted, atol=1e-5)
        alone = model.features(batch, frozenset({"camera"}))
    assert not alone["camera"].any()
    assert torch.equal(alone["fused"], alone["lidar"])
    assert torch.allclose(alone["lidar"], maps["lidar"])


def test_a_masked_view_is_not_computed():
    model, batch = toy().eval(), make_batch(TOY.inputs, counts=(2,))
    model.encoders["lidar"].register_forward_hook(lambda *_: pytest.fail("the extractor ran"))
    outputs = model(batch, frozenset({"lidar"}))
    assert "lidar" not in outputs


def test_path_drop_keeps_at_least_one_view_and_only_in_training():
    config = TOY.model_copy(update={"keep_camera": 0.5, "keep_lidar": 0.5})
    torch.manual_seed(0)
    model, maps = config.build(), {"camera": None, "lidar": None}
    drawn = Counter(tuple(model._weights(maps).values()) for _ in range(200))
    # One of four draws drops both, and a coin keeps either.
    assert drawn.keys() == {(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)}
    assert 30 < drawn[0.5, 0.5] < 75
    assert model._weights({"camera": None}) == {"camera": 1.0}
    assert model.eval()._weights(maps) == {"camera": 0.5, "lidar": 0.5}


def test_frames_of_a_batch_do_not_see_each_other_in_training_either():
    config = TOY.model_copy(update={"keep_camera": 1.0, "keep_lidar": 1.0})
    torch.manual_seed(0)
    model, batch = config.build().train(), make_batch(TOY.inputs)
    together, alone = model(batch), [model(batch.samples(number, number + 1)) for number in range(len(batch))]
    for name, parts in together.items():
        assert torch.equal(parts[1], alone[1][name][0]), name


def test_one_seed_one_result_in_training():
    config = TOY.model_copy(update={"boxes": TOY.boxes.model_copy(update={"dropout": 0.5})})
    batch, found = make_batch(TOY.inputs, counts=(2,)), []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(config.build().train()(batch)["classes"][0])
    assert torch.equal(*found)


def test_training_and_evaluation_have_proposals_of_their_own_number():
    batch = make_batch(TOY.inputs, counts=(3,))
    model = toy()
    assert len(model.train()(batch)["proposals"][0]) == TOY.proposals.kept_in_training
    assert len(model.eval()(batch)["proposals"][0]) == TOY.proposals.kept


@pytest.mark.parametrize(
    ("masked", "message"),
    [({"radar"}, "`masked` may hold camera, lidar, but got radar"), ({"camera", "lidar"}, "must leave one of camera")],
)
def test_unknown_or_all_views_cannot_be_masked(masked, message):
    with pytest.raises(ValueError, match=message):
        toy()(make_batch(TOY.inputs, counts=(1,)), frozenset(masked))


def test_synaptic_flow_reaches_every_group():
    model = toy()
    groups = groups_of(model)
    flow = model.flow(make_batch(TOY.inputs, counts=(2,)))
    problem = Problem(model=model, groups=groups, loss=pytest.fail, batches=[], modalities=model.modalities, flow=flow)
    masks = SynFlow(rounds=3).masks(problem, Target(groups=groups, sparsity=0.5))
    kept = Counter()
    for name, mask in masks.items():
        kept[model.group_of(name)] += int(mask.sum())
    assert all(kept[group] > 0 for group in ("camera", "lidar", "fusion"))


def test_a_model_without_channels_answers_as_with_masked_ones():
    model, batch = toy().eval(), make_batch(TOY.inputs, counts=(2,))

    def answers(one):
        # Fixed proposals, since a choice among nearly equal ones may differ by rounding; and no maps of other widths.
        outputs = one._outputs(batch, frozenset(), lambda anchors, *_: anchors[::40])
        return [outputs[name] for name in ("objectness", "offsets", "classes", "corners", "angles")]

    couplings = model.channel_couplings()
    check_couplings(model, couplings, answers)
    names = {coupling.name for coupling in couplings}
    # Both views' last features are one coupling; all others are of one view, or of the second stage.
    assert len(names & {"encoders.camera.extractor.fusers.2.0", "encoders.lidar.extractor.fusers.2.0"}) == 1
    layers = 2 * (6 + 6) - 1 + 4 + 2
    assert len(names) == layers


def change(**sections):
    return AvodConfig.model_validate({**TOY.model_dump(), **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"lidar": {"channels": (16, 16, 32, 64)}}, "must begin with the same number, but got 8 and 16"),
        ({"inputs": {**TOY.inputs.model_dump(), "image_size": (96, 310)}}, r"must divide by 8, but got \(96, 310\)"),
        ({"inputs": {**TOY.inputs.model_dump(), "types": ("Car",)}}, "needs one entry for each of Car, but got"),
        ({"boxes": {**TOY.boxes.model_dump(), "negative": (0.9, 0.1, 0.1)}}, "`boxes.negative <= boxes.positive`"),
    ],
)
def test_sections_that_do_not_agree_are_refused(sections, message):
    with pytest.raises(ValidationError, match=message):
        change(**sections)


def test_a_configuration_survives_its_text():
    assert AvodConfig.model_validate_json(TOY.model_dump_json()) == TOY


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="unknown model 'avod'; choose one of: avod-fpn-cars, avod-fpn-people"):
        avod_configuration("avod")
