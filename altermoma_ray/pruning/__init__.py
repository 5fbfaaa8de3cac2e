"""Pruning of multi-modal fusion models with AlterMOMA, in plain torch.

Nothing here knows a data set, a model or a cluster. The functions take a network, its parameters sorted into
modalities and fusion, and a loss with an option to mask a modality:

>>> import torch
>>> from torch import nn
>>> from altermoma_ray import pruning
>>> class Fusion(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.camera, self.lidar, self.fusion = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(32, 1)
...
...     def forward(self, image, points, masked):
...         camera = torch.relu(self.camera(image)) if "camera" not in masked else image.new_zeros(len(image), 16)
...         lidar = torch.relu(self.lidar(points)) if "lidar" not in masked else points.new_zeros(len(points), 16)
...         return self.fusion(torch.cat([camera, lidar], dim=1))
>>> _ = torch.manual_seed(0)
>>> model = Fusion()
>>> batches = [(torch.randn(8, 6), torch.randn(8, 4), torch.randn(8, 1)) for _ in range(4)]
>>> def loss(batch, masked):
...     image, points, target = batch
...     return nn.functional.mse_loss(model(image, points, masked), target)

Score once: contribution on the intact model, redundancy with each modality masked in turn.

>>> names = list(pruning.prunable_weights(model))
>>> groups = pruning.group_weights(names, lambda name: name.split(".")[0])
>>> setting = pruning.Reactivation(steps=4, learning_rate=1e-3)
>>> indicators = pruning.Indicators(
...     contribution=pruning.contribution(model, names, loss, batches),
...     redundancy={
...         masked: pruning.redundancy(
...             model, [n for n in names if n not in groups[masked]], loss, masked, batches, batches, [setting]
...         )[setting]
...         for masked in ("lidar", "camera")
...     },
... )

Prune as often as you like: under one threshold, or by a ratio for each group.

>>> scores = pruning.altereva(indicators, groups, alpha=1.0, beta=1.0)
>>> masks = pruning.global_masks(scores, 0.75)
>>> masks.kept(), masks.sparsity()
(48, 0.75)
>>> ratios = pruning.solve_ratios({"camera": 96, "lidar": 64, "fusion": 32}, 0.75, dict(camera=0, lidar=1, fusion=1))
>>> pruning.group_masks(scores, groups, ratios).kept()
48

Every criterion, the usual baselines among them, does all these steps behind one interface:

>>> problem = pruning.Problem(
...     model=model, groups=groups, loss=loss, batches=batches, modalities=["lidar", "camera"], training_batches=batches
... )
>>> target = pruning.Target(groups=groups, sparsity=0.75)
>>> pruning.CRITERIA["altermoma"].masks(problem, target).kept(), pruning.CRITERIA["snip"].masks(problem, target).kept()
(48, 48)

Fine-tune; pruned weights stay zero.

>>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
>>> with pruning.MaskHolder(model, masks, optimizer) as holder:
...     for batch in batches:
...         optimizer.zero_grad()
...         loss(batch, frozenset()).backward()
...         optimizer.step()
...         holder.after_step()
>>> pruning.count_sparsity(model, names)
0.75
"""

from altermoma_ray.pruning.altereva import Normalisation, altereva
from altermoma_ray.pruning.coverage import Coverage, LeftOut, coverage
from altermoma_ray.pruning.criteria import CRITERIA, AlterMOMA, Criterion, Problem, ScoreCriterion
from altermoma_ray.pruning.gradients import LossFunction, NormMode, Reduce, Weights, single_worker
from altermoma_ray.pruning.groups import group_weights, prunable_weights
from altermoma_ray.pruning.holder import MaskHolder
from altermoma_ray.pruning.indicators import (
    Indicators,
    Reactivation,
    ReactivationGradient,
    contribution,
    redundancy,
)
from altermoma_ray.pruning.masking import check_masking
from altermoma_ray.pruning.masks import Masks, count_sparsity, global_masks, group_masks
from altermoma_ray.pruning.ratios import check_ratio, solve_ratios
from altermoma_ray.pruning.schedules import Schedule, ScheduleKind
from altermoma_ray.pruning.targets import Target

__all__ = [
    "CRITERIA",
    "AlterMOMA",
    "Coverage",
    "Criterion",
    "Indicators",
    "LeftOut",
    "LossFunction",
    "MaskHolder",
    "Masks",
    "NormMode",
    "Normalisation",
    "Problem",
    "Reactivation",
    "ReactivationGradient",
    "Reduce",
    "Schedule",
    "ScheduleKind",
    "ScoreCriterion",
    "Target",
    "Weights",
    "altereva",
    "check_masking",
    "check_ratio",
    "contribution",
    "count_sparsity",
    "coverage",
    "global_masks",
    "group_masks",
    "group_weights",
    "prunable_weights",
    "redundancy",
    "single_worker",
    "solve_ratios",
]
