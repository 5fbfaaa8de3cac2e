"""Which weights are pruned, in every way in which torch keeps a layer's weight, and what is said of the others."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.pruning import MaskHolder, count_sparsity, coverage, global_masks, prunable_weights
from altermoma_ray.pruning.coverage import effective_weight

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    old_weight_norm, old_spectral_norm = nn.utils.weight_norm, nn.utils.spectral_norm


class LinearNorm(nn.Linear):
    """A linear layer called as a normalisation is."""


class ConvNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return x @ self.weight.T


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Shifted(nn.Module):
    def forward(self, weight):
        return weight + 1


def parametrised(module):
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", module)
    return layer


LAYERS = {
    "LinearNorm": (lambda: LinearNorm(6, 6), ["weight"]),
    "ConvNorm": (ConvNorm, ["weight"]),
    "old weight_norm": (lambda: old_weight_norm(nn.Linear(6, 6)), ["weight_v"]),
    "old weight_norm, one gain": (lambda: old_weight_norm(nn.Linear(6, 6), dim=None), ["weight_v"]),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 6)), ["parametrizations.weight.original1"]),
    "old spectral_norm": (lambda: old_spectral_norm(nn.Linear(6, 6)), ["weight_orig"]),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(6, 6)), ["parametrizations.weight.original"]),
    "own parametrisation": (lambda: parametrised(Double()), ["parametrizations.weight.original"]),
    "prune": (lambda: prune.random_unstructured(nn.Linear(6, 6), "weight", 0.2), ["weight_orig"]),
    "LSTM": (
        lambda: nn.LSTM(6, 3, num_layers=1, bidirectional=True),
        ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"],
    ),
    "LSTM, projected": (lambda: nn.LSTM(6, 5, proj_size=3), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
    "GRU": (lambda: nn.GRU(6, 6), ["weight_ih_l0", "weight_hh_l0"]),
    "GRU cell": (lambda: nn.GRUCell(6, 6), ["weight_ih", "weight_hh"]),
    "transposed": (lambda: nn.ConvTranspose1d(6, 6, 2), ["weight"]),
    "bilinear": (lambda: nn.Bilinear(6, 6, 6), ["weight"]),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor")
@pytest.mark.parametrize(("make", "names"), LAYERS.values(), ids=LAYERS)
def test_a_layer_is_pruned_however_its_weight_is_kept(make, names):
    torch.manual_seed(0)
    layer = make()
    weights = prunable_weights(layer)
    assert list(weights) == names
    assert coverage(layer).notice() == ""
    masks = global_masks({n: effective_weight(layer, n).detach().abs() for n in names}, 0.75)
    MaskHolder(layer, masks).release()
    assert count_sparsity(layer, names) == pytest.approx(masks.sparsity()) == pytest.approx(0.75, abs=0.01)


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor")
@pytest.mark.parametrize("kind", [k for k in LAYERS if "norm" in k or "prune" in k or "param" in k])
def test_what_was_pruned_is_zero_in_the_layer_s_own_weight_while_it_is_trained(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind][0]()
    names, x = LAYERS[kind][1], torch.randn(5, 6)
    layer(x)
    # A row as a whole, and half of the others: what is left has a length, what is gone has none.
    keep = torch.ones(6, 6, dtype=torch.bool)
    keep[0], keep[1:, ::2] = False, False
    scores = {names[0]: keep.double()}
    masks = global_masks(scores, 21 / 36)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    with MaskHolder(layer, masks, optimizer) as holder:
        for _ in range(3):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
            holder.after_step()
        layer(x)  # the old hooks compute the weight here
        weight = layer.weight
        assert bool(torch.isfinite(weight).all())
        assert not bool(weight[~keep].any())
        if kind != "prune":
            assert bool((weight[keep] != 0).all())


def test_what_is_left_out_is_named_with_counts_and_reasons():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.embedding = nn.Linear(4, 4), nn.LayerNorm((4, 4)), nn.Embedding(3, 4)
            self.matrix = nn.Parameter(torch.randn(4, 5))
            self.shifted = parametrised(Shifted())
            self.spectrum = nn.Linear(4, 2, dtype=torch.complex64)
            self.frozen = nn.Linear(4, 3, bias=False).requires_grad_(False)
            self.pos_embed = nn.Parameter(torch.zeros(9, 4))

    model = Model()
    found = coverage(model)
    assert list(found.weights) == ["layer.weight"]
    unusual = {part.name: (part.weights, part.reason) for part in found.unusual}
    assert unusual == {
        "matrix": (20, "no weight of a known layer"),
        "shifted.parametrizations.weight.original": (
            36,
            "its parametrisation does not keep zeros: remove it before pruning",
        ),
        "spectrum.weight": (8, "complex or whole numbers"),
        "frozen.weight": (12, "frozen: requires_grad=False"),
    }
    assert found.total == sum(parameter.numel() for parameter in model.parameters())
    assert found.sparsity_of_all(0.5) == 8 / found.total
    assert found.notice().startswith(
        f"4 parameters are not pruned, 76 of the model's {found.total} weights: 'matrix' (no"
    )
    assert found.notice().endswith(" and 1 more")


def test_tied_weights_count_once_and_a_model_frozen_as_a_whole_has_its_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight
            self.copy = self.a.weight

    model = Tied()
    assert coverage(model).total == coverage(model).prunable == 16
    assert len(prunable_weights(model)) == 1
    assert list(prunable_weights(nn.Linear(3, 3).requires_grad_(False))) == ["weight"]


@pytest.mark.parametrize(
    ("name", "layers", "weights"),
    [
        ("bevfusion-mit", 127, 39_696_248),
        ("bevfusion-mit-toy", 81, 1_120_576),
        ("bevfusion-mit-r101-second", 179, 55_233_080),
        ("bevfusion-pku", 134, 59_160_176),
    ],
)
def test_of_the_project_s_models_only_biases_norms_and_position_tables_are_left_out(name, layers, weights):
    with torch.device("meta"):
        found = coverage(FusionModel(configuration(name)))
    assert (len(found.weights), found.prunable) == (layers, weights)
    assert found.notice() == ""
    left_out = {part.name.rpartition(".")[2] for part in found.left_out if part.reason != "normalisation"}
    assert left_out <= {"bias", "in_proj_bias", "relative_position_bias_table"}
