from __future__ import annotations

import pytest
import torch

from altermoma_ray.engine.training.pretraining import STAGES, TrainingJob, train_stage
from altermoma_ray.engine.training.recipes import recipe
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.configurations.config import configuration


@pytest.mark.slow
def test_backbones_are_trained_apart_and_fused(source, ray_of_four, tmp_path):
    figures = recipe("bevfusion-mit-toy").model_copy(
        update={"camera_epochs": 1.0, "lidar_epochs": 1.0, "fusion_epochs": 0.5, "batch_size": 2}
    )
    found = {}
    for stage in STAGES:
        job = TrainingJob(
            stage=stage,
            config=configuration("bevfusion-mit-toy"),
            recipe=figures,
            source=source,
            folder=str(tmp_path / "training"),
            seed=0,
        )
        metrics = train_stage(job, workers=2)
        assert set(metrics) >= {"map", "nds", "ap/car", "tp/mATE"}
        found[stage], metadata = load_checkpoint(job.checkpoint(stage))
        written = job.checkpoint(stage).read_bytes()
        assert train_stage(job, workers=2) == pytest.approx(metrics, nan_ok=True)
        assert job.checkpoint(stage).read_bytes() == written
    assert set(metadata["metrics"]) == set(STAGES)
    for stage, other in (("camera", "lidar"), ("lidar", "camera")):
        torch.manual_seed(STAGES.index(stage))  # as the stage itself does, with seed 0
        initial = dict(FusionModel(configuration("bevfusion-mit-toy")).named_parameters())
        trained = dict(found[stage].named_parameters())
        moved = {FusionModel.group_of(name) for name in trained if not trained[name].equal(initial[name])}
        assert moved == {stage, "fusion"}
        assert other not in moved
