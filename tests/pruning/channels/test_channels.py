"""Couplings of small networks: found, chosen, checked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Masks, Target
from altermoma_ray.pruning.channels import Bounds, Coupling, Slice, choose, cut, keep_masks, kept_entries, trace
from altermoma_ray.pruning.channels.checking import check_couplings
from altermoma_ray.pruning.granularity import Channel
from altermoma_ray.pruning.targets import OutOfReach


class Residual(nn.Module):
    """Two layers that add into one stream, a deconvolution, and a grouped convolution whose channels stay."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, image):
        stream = torch.relu(self.norm(self.first(image)))
        stream = stream + self.second(stream)
        return self.last(self.grouped(torch.relu(self.up(stream))))


class Shuffled(nn.Module):
    """The second half of the channels swapped with the first, by an operation that tracing does not know."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image):
        return self.last(self.first(image).roll(4, dims=1))


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def run(model):
    return model(IMAGE)


def scored(model):
    return {name: weight.detach().abs() for name, weight in model.named_parameters() if weight.ndim > 1}


def traced(seed=0):
    torch.manual_seed(seed)
    model = Residual().eval()
    return model, trace(model, run)


def test_layers_that_add_into_one_stream_lose_the_same_channels():
    model, couplings = traced()
    assert {coupling.name for coupling in couplings} == {"second"} or {c.name for c in couplings} == {"first"}
    touched = {(part.tensor, part.dim) for part in couplings[0].slices}
    assert {("first.weight", 0), ("second.weight", 0), ("second.weight", 1), ("norm.bias", 0)} <= touched
    assert ("up.weight", 0) in touched  # the inputs of a transposed convolution come first
    check_couplings(model, couplings, run)


def test_a_removed_channel_is_a_masked_channel_with_its_norm():
    model, couplings = traced(seed=1)
    nn.init.uniform_(model.norm.bias, 0.5, 1.0)
    kept = {one.name: torch.arange(one.channels) % 3 > 0 for one in couplings}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    small = cut(model, kept_entries(shapes, couplings, kept))
    assert small.second.in_channels == small.norm.num_features == small.up.in_channels == 10
    masks = keep_masks({name: parameter.shape for name, parameter in model.named_parameters()}, couplings, kept)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(masks[name])
        torch.testing.assert_close(run(small), run(model), rtol=1e-5, atol=1e-6)


def test_widths_keep_to_multiples_and_to_the_least_share():
    model, couplings = traced()
    scores = scored(model)
    target = Target(groups={"all": list(scores)}, sparsity=0.3)
    for multiple, width in ((8, 8), (1, None)):
        kept = choose(scores, couplings, target, Bounds(multiple=multiple))
        left = int(kept[couplings[0].name].sum())
        assert left % multiple == 0
        assert width is None or left == width
    with pytest.raises(OutOfReach, match=r"can go up to a sparsity of 0\.\d+, but 0\.300 is asked for"):
        choose(scores, couplings, target, Bounds(least=0.9))
    most = Target(groups={"all": list(scores)}, sparsity=0.3, within_reach=True)
    kept = choose(scores, couplings, most, Bounds(least=0.9))
    assert int(kept[couplings[0].name].sum()) == Bounds(least=0.9).narrowest(couplings[0])


def test_single_layers_have_bounds_of_their_own():
    model, couplings = traced()
    scores = scored(model)
    (name,) = (coupling.name for coupling in couplings)
    target = Target(groups={"all": list(scores)}, sparsity=0.3)
    for multiple_of, multiple in (({name: 4}, 4), ({"*": 2, name: 4}, 2), ({"other": 2}, 8)):
        bounds = Bounds(multiple=8, multiple_of=multiple_of)
        assert bounds.step(couplings[0]) == multiple
        assert int(choose(scores, couplings, target, bounds)[name].sum()) % multiple == 0
    with pytest.raises(OutOfReach, match=r"lower the least share of channels that stays \(--least-share"):
        choose(scores, couplings, target, Bounds(least_of={f"{name[:2]}*": 1.0}))
    with pytest.raises(UserError, match=r"no layer whose channels can be removed has a name like 'sekond'; there are"):
        Channel(Bounds(multiple_of={"sekond": 8})).bound_to(model, run)


def test_an_odd_width_goes_down_to_a_multiple_or_stays():
    couplings = [Coupling("layer", (Slice("layer.weight", 0, torch.arange(32)[:, None]),))]
    scores = {"layer.weight": torch.arange(32.0)[:, None]}
    widths = {}
    for sparsity in (0.0, 0.01, 0.1, 0.6):
        target = Target(groups={"all": ["layer.weight"]}, sparsity=sparsity)
        widths[sparsity] = int(choose(scores, couplings, target, Bounds(multiple=10))["layer"].sum())
    assert widths == {0.0: 32, 0.01: 32, 0.1: 20, 0.6: 10}


def test_heads_are_as_wide_as_their_channels():
    heads = Coupling("attention", (Slice("attention.weight", 0, torch.arange(96).view(6, 16)),), unit=16)
    assert [Bounds(multiple=multiple).step(heads) for multiple in (1, 8, 16, 32)] == [1, 1, 1, 2]


def test_a_later_round_scores_by_the_weights_that_are_left():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    couplings = trace(model, lambda one: one(torch.zeros(1, 2)))
    scores = {
        "0.weight": torch.tensor([[0.0, 0.0], [9.0, 9.0]]),
        "1.weight": torch.tensor([[9.0, 2.0], [0.0, 6.0]]),
        "2.weight": torch.tensor([[1.0, 1.0]]),
    }
    groups = {"all": list(scores)}
    first = keep_masks(
        {name: score.shape for name, score in scores.items()},
        couplings,
        {"0": torch.tensor([False, True]), "1": torch.tensor([True, True])},
    )
    # Means of layer 1 over all weights are 4 and 7/3, over the remaining ones 3/2 and 7/2.
    target = Target(groups=groups, sparsity=0.6)
    assert choose(scores, couplings, target, Bounds())["1"].tolist() == [True, False]
    kept = choose(scores, couplings, target, Bounds(), Masks(first))
    assert kept["0"].tolist() == [False, True]
    assert kept["1"].tolist() == [False, True]


def test_a_frozen_layer_keeps_its_channels():
    model, couplings = traced()
    scores = scored(model)
    scores["second.weight"] = torch.full_like(scores["second.weight"], torch.inf)
    target = Target(groups={"all": list(scores)}, sparsity=0.0)
    assert all(bool(kept.all()) for kept in choose(scores, couplings, target, Bounds()).values())


def test_a_misread_operation_is_refused():
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"Shuffled without some channels computes something else .*channel_couplings"):
        Channel().bound_to(Shuffled().eval(), run)


def test_models_without_channels_or_traces_are_named():
    with pytest.raises(UserError, match="Linear has no channel that can be removed"):
        Channel().bound_to(nn.Linear(3, 2), lambda model: model(torch.zeros(1, 3)))

    def broken(model):
        raise RuntimeError("no input")

    with pytest.raises(UserError, match=r"the channels of Linear cannot be traced \(RuntimeError: no input\)"):
        Channel().bound_to(nn.Linear(3, 2), broken)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"other.weight": {"0": [0]}}, "names 'other.weight', which the model lacks"),
        ({"weight": {"0": [9]}}, r"keeps entries of 'weight' that its shape \[2, 3\] lacks"),
        ({"weight": {"2": [0]}}, r"keeps entries of 'weight' that its shape \[2, 3\] lacks"),
        ({"weight": {"0": []}}, r"keeps entries of 'weight' that its shape \[2, 3\] lacks"),
    ],
)
def test_a_plan_of_another_model_is_refused(kept, message):
    with pytest.raises(UserError, match=message):
        Channel().replay(nn.Linear(3, 2), {"granularity": "channel", "kept": kept})
    with pytest.raises(UserError, match="a channel plan has the keys granularity and kept, but got kept"):
        Channel().replay(nn.Linear(3, 2), {"kept": kept})
