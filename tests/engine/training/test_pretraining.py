from __future__ import annotations

import pytest
import torch

from altermoma_ray.engine.training.pretraining import TrainingJob, train_stage
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.workloads.nusc import RECIPES


@pytest.mark.slow
def test_backbones_are_trained_apart_and_fused(workload, ray_of_four, tmp_path):
    own = RECIPES["bevfusion-mit-toy"]
    stages = tuple(stage.model_copy(update={"epochs": 0.5 if stage.name == "fusion" else 1.0}) for stage in own.stages)
    figures = own.model_copy(update={"stages": stages, "batch_size": 2})
    names = [stage.name for stage in stages]
    found = {}
    for stage in names:
        job = TrainingJob(
            workload=workload,
            stage=stage,
            recipe=figures,
            folder=str(tmp_path / "training"),
            seed=0,
        )
        metrics = train_stage(job, workers=2)
        assert set(metrics) >= {"map", "nds", "ap/car", "tp/mATE"}
        found[stage], metadata = load_checkpoint(job.checkpoint(stage))
        written = job.checkpoint(stage).read_bytes()
        assert train_stage(job, workers=2) == pytest.approx(metrics, nan_ok=True)
        assert job.checkpoint(stage).read_bytes() == written
    assert set(metadata["metrics"]) == set(names)
    for stage, other in (("camera", "lidar"), ("lidar", "camera")):
        torch.manual_seed(names.index(stage))  # as the stage itself does, with seed 0
        initial = dict(FusionModel(configuration("bevfusion-mit-toy")).named_parameters())
        trained = dict(found[stage].named_parameters())
        moved = {FusionModel.group_of(name) for name in trained if not trained[name].equal(initial[name])}
        assert moved == {stage, "fusion"}
        assert other not in moved
