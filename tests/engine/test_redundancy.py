"""The figures of a redundancy report against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.engine.redundancy.features import FeatureRecorder, contrast, rows_of
from altermoma_ray.engine.redundancy.removal import removals
from altermoma_ray.engine.redundancy.shares import group_figures, jaccard, layer_figures, shares
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.pruning import Indicators, Masks, Reactivation
from altermoma_ray.pruning.reactivation import reactivated
from altermoma_ray.tasks.detection.boxes import BevGrid
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tracking.redundancy.records import BEFORE, MASKED, REACTIVATED

GROUPS = {"camera": ["c1", "c2"], "lidar": ["l1"], "fusion": ["f1", "f2"]}
SHAPES = {"c1": (4, 5), "c2": (10,), "l1": (6,), "f1": (3, 4), "f2": (8,)}


@pytest.fixture
def indicators():
    torch.manual_seed(0)
    drawn = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    redundancy = {
        "lidar": {name: torch.rand(SHAPES[name]) * 9 for name in ("c1", "c2", "f1", "f2")},
        "camera": {name: torch.rand(SHAPES[name]) * 3 for name in ("l1", "f1", "f2")},
    }
    return Indicators(contribution=drawn, redundancy=redundancy)


def flat(weights, names):
    return torch.cat([weights[name].flatten() for name in names])


def test_shares_are_of_the_group_and_the_mean_over_its_passes(indicators):
    layers = {layer.name: layer for layer in layer_figures(indicators, GROUPS)}
    for group, names in GROUPS.items():
        assert sum(layers[name].deci_share for name in names) == pytest.approx(1)
        assert sum(layers[name].reri_share for name in names) == pytest.approx(1)
        assert sum(layers[name].weight_share for name in names) == pytest.approx(1)
        assert {layers[name].group for name in names} == {group}
    f1, passes = layers["f1"], {}
    for masked, weights in indicators.redundancy.items():
        passes[masked] = float(weights["f1"].sum() / flat(weights, GROUPS["fusion"]).sum())
    assert f1.reri_by_pass == pytest.approx(passes)
    assert f1.reri_share == pytest.approx(sum(passes.values()) / 2)
    assert list(layers["c1"].reri_by_pass) == ["lidar"]


def test_ranks_are_compared_by_spearman(indicators):
    deci, reri = shares(indicators, GROUPS)
    layers = layer_figures(indicators, GROUPS)
    for layer in layers:
        expected = spearmanr(deci[layer.name].flatten(), reri[layer.name].flatten()).statistic
        assert layer.spearman == pytest.approx(expected)
    for group in group_figures(indicators, GROUPS, layers, 0.5):
        names = GROUPS[group.name]
        assert group.spearman == pytest.approx(spearmanr(flat(deci, names), flat(reri, names)).statistic)
        density = torch.tensor(group.ranks)
        assert float(density.mean()) == pytest.approx(1, abs=1e-3)
    fusion = group_figures(indicators, GROUPS, layers, 0.5)[-1]
    both = [flat(weights, GROUPS["fusion"]) for weights in indicators.redundancy.values()]
    assert fusion.pass_spearman == pytest.approx(spearmanr(*both).statistic)


def test_a_constant_indicator_has_no_rank_correlation(indicators):
    indicators.contribution["l1"].fill_(0)
    layers = layer_figures(indicators, GROUPS)
    lidar = next(layer for layer in layers if layer.name == "l1")
    assert lidar.spearman is None
    assert lidar.deci_share == 0
    assert math.isinf(lidar.ratio)
    assert lidar.redundant


def test_equal_indicators_overlap_fully_and_show_no_redundancy(indicators):
    same = Indicators(
        contribution=indicators.contribution,
        redundancy={
            masked: {name: 7 * indicators.contribution[name] for name in weights}
            for masked, weights in indicators.redundancy.items()
        },
    )
    layers = layer_figures(same, GROUPS)
    assert not any(layer.redundant for layer in layers)
    for group in group_figures(same, GROUPS, layers, 0.5):
        assert group.spearman == pytest.approx(1)
        assert group.overlap == 1
        assert group.overlap_by_chance == pytest.approx(1 / 3)
        assert group.shift == pytest.approx(0, abs=1e-6)


def test_redundant_layers_hold_more_reri_than_deci(indicators):
    indicators.contribution["c2"].fill_(0.01)
    indicators.redundancy["lidar"]["c2"].fill_(50)
    layers = {layer.name: layer for layer in layer_figures(indicators, GROUPS)}
    assert layers["c2"].redundant
    assert not layers["c1"].redundant


def test_removals_count_layers_and_what_criteria_share():
    groups = {"camera": ["c"], "fusion": ["f"]}
    one = Masks({"c": torch.tensor([True, False, False, False]), "f": torch.tensor([True, True])})
    two = Masks({"c": torch.tensor([True, True, False, False]), "f": torch.tensor([True, False])})
    first, second = removals({"one": one, "two": two}, groups)
    assert first.sparsity == pytest.approx({"total": 0.5, "camera": 0.75, "fusion": 0})
    assert second.layers == pytest.approx({"c": 0.5, "f": 0.5})
    assert first.overlap == pytest.approx({"one": 1, "two": 2 / 4})
    assert second.overlap_removed["one"] == pytest.approx(2 / 4)
    assert jaccard(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) == 1


def test_cells_of_boxes_follow_their_yaw():
    grid = BevGrid(origin=(-4.0, -4.0), cell=(1.0, 1.0), shape=(8, 8))
    along_x = torch.tensor([[0.5, 0.5, 0, 4.2, 0.4, 1, 0, 0, 0]])
    turned = along_x.clone()
    turned[0, 6] = math.pi / 2
    cells = grid.occupied(along_x)
    assert cells.nonzero().tolist() == [[2, 4], [3, 4], [4, 4], [5, 4], [6, 4]]
    assert torch.equal(grid.occupied(turned), cells.T)
    assert not grid.occupied(torch.zeros(0, 9)).any()
    small = torch.tensor([[1.1, 1.1, 0, 0.1, 0.1, 1, 0, 0, 0]])  # covers no cell's centre
    assert grid.occupied(small).nonzero().tolist() == [[5, 5]]


def test_contrast_is_a_ratio_of_means():
    norm, inside = torch.tensor([[6.0, 1.0], [2.0, 3.0]]), torch.tensor([[True, False], [False, False]])
    assert contrast(norm, inside) == pytest.approx(3)
    assert math.isnan(contrast(torch.zeros(2, 2), inside))


def test_features_are_recorded_by_state_and_the_model_is_left_alone(source, checkpoint):
    model, _ = load_checkpoint(checkpoint)
    task = DetectionTask(model.config.head)
    dataset = NuScenesDataset(source.index(), source.rows("validation"), model.config.inputs, augment=False)
    batches = [collate([dataset[0]]), collate([dataset[1]])]
    rows = rows_of(model.modalities)
    recorder = FeatureRecorder(batches, rows, torch.cat([task.occupied(batch) for batch in batches]), pictured=1)
    model.train()
    recorder.record(model, BEFORE)
    assert model.training

    def loss(batch, masked):
        return task.loss(model(batch, masked), batch)["total"].mean()

    recorder.record(model, MASKED, masked="lidar")
    with reactivated(model, loss, "lidar", batches, Reactivation(steps=2, learning_rate=1e-3)):
        recorder.record(model, REACTIVATED, masked="lidar")
    found = {(entry.row, entry.state): entry for entry in recorder.figures}
    assert len(found) == len(rows) + 2 * 2
    # Masking the LiDAR leaves the camera's features alone; reactivation does not.
    assert found["camera (lidar masked)", MASKED].likeness == pytest.approx(1, abs=1e-5)
    assert found["camera (lidar masked)", REACTIVATED].likeness < 1 - 1e-6
    pictures = recorder.pictures
    for before, after in ((BEFORE, MASKED), (MASKED, REACTIVATED)):
        assert not torch.equal(pictures[f"fused (lidar masked)/{before}"], pictures[f"fused (lidar masked)/{after}"])
    model.eval()
    with torch.inference_mode():
        norm = model.features(batches[1])["fused"].norm(dim=1)[0]
    torch.testing.assert_close(recorder.pictures[f"fused (camera masked)/{BEFORE}"], norm, rtol=1e-4, atol=1e-5)
