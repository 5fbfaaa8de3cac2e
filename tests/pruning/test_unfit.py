"""Models that cannot be scored or trained as they are, and parts that no gradient leads to."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import (
    CRITERIA,
    MaskHolder,
    Masks,
    Problem,
    Reactivation,
    Target,
    check_masking,
    contribution,
    group_weights,
    prunable_weights,
    redundancy,
)
from altermoma_ray.pruning.criteria import IMP, ProsPr
from altermoma_ray.pruning.reactivation import reactivated


class Fusion(nn.Module):
    def __init__(self, frozen=False):
        super().__init__()
        self.camera, self.lidar = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8)), nn.Linear(4, 8)
        self.fusion = nn.Linear(16, 1)
        self.frozen = frozen

    def forward(self, batch, masked=frozenset()):
        image, points = batch
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            camera = self.camera[0](image)
        camera = torch.relu(self.camera[1](camera)) * ("camera" not in masked)
        lidar = torch.relu(self.lidar(points)) * ("lidar" not in masked)
        return self.fusion(torch.cat([camera, lidar], dim=1))


def batches(count=3):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)) for _ in range(count)]


def problem(model, **changes):
    fields = {
        "model": model,
        "groups": group_weights(prunable_weights(model), lambda name: name.split(".")[0]),
        "loss": lambda batch, masked: (model(batch, masked) - 1).square().mean(),
        "batches": batches(),
        "modalities": ("lidar", "camera"),
        "training_batches": batches(),
    }
    return Problem(**(fields | changes))


def lazy():
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1))


def on_meta():
    model = Fusion()
    model.lidar.to("meta")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lazy, "parameter '0.weight' has no shape yet: run the model once on a batch before pruning"),
        (on_meta, "parameter 'lidar.weight' is on the meta device and has no values: load weights"),
    ],
)
def test_parameters_without_values_are_found_wherever_a_model_comes_in(make, message):
    model = make()
    setting = Reactivation(steps=1, learning_rate=1e-3)

    def loss(batch, masked):
        return model(batch).mean()

    def reactivate():
        with reactivated(model, loss, "lidar", batches(), setting):
            pass

    for enter in (
        lambda: prunable_weights(model),
        lambda: contribution(model, ["fusion.weight"], loss, batches()),
        lambda: redundancy(model, ["fusion.weight"], loss, "lidar", batches(), batches(), [setting]),
        lambda: MaskHolder(model, Masks({})),
        reactivate,
    ):
        with pytest.raises(UserError, match=message):
            enter()


def test_values_that_are_not_finite_are_found_before_they_are_scored():
    model = Fusion()
    with torch.no_grad():
        model.lidar.weight[0, :2] = torch.nan
    for name in ("altermoma", "magnitude", "random", "snip", "taylor", "prospr"):
        with pytest.raises(UserError, match=r"parameter 'lidar.weight' has 2 of 32 values that are not finite: load a"):
            CRITERIA[name].masks(*_asked(problem(model)))


def _asked(given):
    return given, Target(groups=given.groups, sparsity=0.5)


@pytest.mark.parametrize("name", ["altermoma", "imp", "prospr"])
def test_a_type_in_which_adam_overflows_is_named_with_what_to_do(name):
    model = Fusion().half()
    with pytest.raises(
        UserError, match=r"parameter 'camera.0.weight' is float16, .*: make the model float32 with model"
    ):
        CRITERIA[name].masks(*_asked(problem(model)))


def test_nothing_to_train_is_said():
    model = Fusion().requires_grad_(False)
    for criterion in (IMP(rounds=1, steps=1), ProsPr(steps=1)):
        with pytest.raises(UserError, match=r"no parameter of Fusion requires a gradient.*call requires_grad_"):
            criterion.masks(*_asked(problem(model)))


@pytest.mark.parametrize("name", ["altermoma", "altermoma-residual", "deci", "reri", "snip", "taylor", "prospr"])
@pytest.mark.parametrize("by_group", [False, True])
def test_a_part_that_runs_without_gradients_is_not_pruned_and_that_is_said(name, by_group, caplog):
    torch.manual_seed(0)
    model = Fusion(frozen=True)
    given = problem(model)
    ratios = dict.fromkeys(given.groups, 0.75) if by_group else None
    with caplog.at_level(logging.WARNING):
        masks = CRITERIA[name].masks(given, Target(groups=given.groups, sparsity=0.75, ratios=ratios))
    assert bool(masks["camera.0.weight"].all())
    others = [layer for layer in masks if layer != "camera.0.weight"]
    assert masks.sparsity(others) == pytest.approx(0.75)
    assert "1 layers with 48 weights are frozen (no gradient leads to them) and are not pruned: camera.0" in caplog.text


def test_a_gradient_of_zero_is_no_frozen_part():
    model = Fusion()
    with torch.no_grad():
        model.camera[1].bias.fill_(-1e3)  # no image gets through the rectifier
    scores = CRITERIA["snip"].scores(problem(model))
    assert not bool(scores["camera.0.weight"].any())


def test_a_part_with_its_flag_off_is_left_out():
    model = Fusion()
    model.camera[0].requires_grad_(False)
    masks = CRITERIA["altermoma"].masks(*_asked(problem(model)))
    assert list(masks) == ["camera.1.weight", "lidar.weight", "fusion.weight"]


def test_a_loss_that_no_weight_has_a_part_in_is_refused():
    model = Fusion()

    @torch.no_grad()
    def loss(batch, masked):
        return model(batch, masked).mean()

    with pytest.raises(
        UserError, match=r"the loss leads to none of the 4 weights to score, 'camera.0.weight' the first"
    ):
        CRITERIA["snip"].scores(problem(model, loss=loss))


def ignoring(problem):
    return problem.__class__(**{**vars(problem), "loss": lambda batch, masked: problem.loss(batch, frozenset())})


def test_a_loss_that_ignores_its_mask_is_found_before_scoring():
    given = ignoring(problem(Fusion()))
    with pytest.raises(UserError, match=r"masking 'lidar' changes neither the loss nor its gradients.*use `masked` in"):
        CRITERIA["altermoma"].masks(*_asked(given))
    CRITERIA["deci"].masks(*_asked(given))  # which masks nothing


def test_a_modality_of_another_name_than_the_loss_s_is_found():
    model = Fusion()
    groups = {"camera": ["camera.0.weight"], "lidars": ["lidar.weight"], "fusion": ["fusion.weight"]}
    with pytest.raises(UserError, match="masking 'lidars' changes neither"):
        CRITERIA["altermoma"].masks(*_asked(problem(model, groups=groups, modalities=("lidars", "camera"))))
    with pytest.raises(UserError, match="modality 'lidar' must be a parameter group"):
        CRITERIA["altermoma"].masks(*_asked(problem(model, groups=groups)))


def test_a_group_that_its_mask_leaves_on_is_found():
    model = Fusion()
    groups = {"camera": ["camera.0.weight", "camera.1.weight"], "lidar": ["lidar.weight", "fusion.weight"]}
    with pytest.raises(UserError, match=r"with 'lidar' masked, its own weight 'fusion.weight' still gets a gradient"):
        CRITERIA["altermoma"].masks(*_asked(problem(model, groups=groups)))


def test_the_check_of_masks_leaves_no_trace_and_takes_one_batch():
    model, passed = Fusion(), []
    given = problem(model)

    def loss(batch, masked):
        passed.append(masked)
        return given.loss(batch, masked) + 0 * torch.rand(())

    state, before = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    check_masking(model, loss, given.groups, ("lidar", "camera"), given.batches)
    assert passed == [frozenset(), frozenset({"lidar"}), frozenset({"camera"})]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
