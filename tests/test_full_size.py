"""The models at their full size, on a real keyframe (minutes, and about 9 GB of memory)."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.source import NuScenes
from altermoma_ray.engine.training.loop import one_cycle, train_steps
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.pruning import MaskHolder, Reactivation, Target, contribution, prunable_weights, redundancy
from altermoma_ray.pruning.granularity import GRANULARITIES
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.workloads.workload import groups_of


def with_statistics_of(batch, model):
    """A new model whose norms know its activations, which otherwise grow from block to block of a ResNet."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(batch)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bevfusion-mit", "bevfusion-pku"])
def test_one_scoring_pass_and_one_training_step_are_finite(name, real_nuscenes, tmp_path):
    source = NuScenes(dataroot=str(real_nuscenes), version="v1.0-mini", storage=str(tmp_path))
    config = configuration(name)
    dataset = NuScenesDataset(source.index(), source.rows("train"), config.inputs, augment=False)
    batch = collate([dataset[0]])
    torch.manual_seed(0)
    model, task = FusionModel(config), DetectionTask(config.head)

    def loss(part, masked):
        return task.loss(model(part, masked), part)["total"].mean()

    names = list(prunable_weights(model))
    deci = contribution(model, names, loss, [batch])
    setting = Reactivation(steps=1, learning_rate=1e-4)
    scored = [name for name in names if FusionModel.group_of(name) != "camera"]
    reri = redundancy(model, scored, loss, "camera", [batch], [batch], [setting])[setting]
    for indicator in (deci, reri):
        assert all(torch.isfinite(values).all() for values in indicator.values())
        assert {FusionModel.group_of(name) for name, values in indicator.items() if values.sum() > 0} == {
            FusionModel.group_of(name) for name in indicator
        }

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    train_steps(model, task, [batch], optimizer, one_cycle(optimizer, 10), clip_norm=35.0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    changed = [name for name, parameter in model.named_parameters() if (parameter != before[name]).any()]
    assert {FusionModel.group_of(name) for name in changed} == {"camera", "lidar", "fusion"}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("name", ["bevfusion-mit", "bevfusion-mit-r101-second"])
def test_removed_channels_are_masked_channels(name, share, real_nuscenes, tmp_path):
    source = NuScenes(dataroot=str(real_nuscenes), version="v1.0-mini", storage=str(tmp_path))
    config = configuration(name)
    batch = collate([NuScenesDataset(source.index(), source.rows("train"), config.inputs, augment=False)[0]])
    torch.manual_seed(0)
    model = with_statistics_of(batch, FusionModel(config))
    channels = GRANULARITIES["channel"].bound_to(model, lambda _: pytest.fail("the model tells its own channels"))
    scores = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
    masks = channels.select(scores, Target(groups=groups_of(model), sparsity=share))
    assert share <= masks.sparsity() < share + 0.01
    with torch.no_grad(), MaskHolder(model, channels.held(masks)):
        small = channels.finalise(model, masks)
        expected, found = (one(batch)["dense_heatmap"] for one in (model, small))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert sum(weight.numel() for weight in prunable_weights(small).values()) == masks.kept()
