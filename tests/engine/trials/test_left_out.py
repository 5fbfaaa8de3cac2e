"""Layers that no criterion reaches: a trial tells its sparsity of all parameters too."""

from __future__ import annotations

import pytest

from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.workloads.reference import find_workload

WITH_A_RAW_MATRIX = """
import torch

from altermoma_ray.workloads import Recipe, Workload
from tests.workloads.two_branch import Generated, Regression, TwoBranch


class Mixed(TwoBranch):
    def __init__(self):
        super().__init__()
        self.mixing = torch.nn.Parameter(torch.eye(40))


WORKLOAD = Workload(name="mixed", model=Mixed, task=Regression(), data=Generated(), recipe=Recipe(batch_size=8))
"""


@pytest.mark.parametrize("reference", ["raw", "tests.workloads.two_branch:WORKLOAD"])
def test_a_sparsity_of_all_parameters_stands_beside_the_one_of_prunable_weights(reference, tmp_path):
    if reference == "raw":
        file = tmp_path / "mixed.py"
        file.write_text(WITH_A_RAW_MATRIX)
        reference = f"{file}:WORKLOAD"
    workload = find_workload(reference, str(tmp_path / "storage"))
    plan = plan_search(SearchRequest(workload=workload, space=SearchSpace(rungs=()), sparsity=0.5, trials=1))
    setting = PruningSetting(scope="global", sparsity=0.5, criterion="magnitude", learning_rate=1e-3)
    job = plan.trial_job()
    list(TrialRunner(job).run(TrialTask(number=0, setting=setting, fine_tune_epochs=0.1)))
    sparsity = read_result(job, 0).sparsity
    if "mixed" in reference:
        model = workload.load().model()
        share = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1 and n != "mixing")
        assert sparsity["all_parameters"] == pytest.approx(0.5 * share / sum(p.numel() for p in model.parameters()))
    else:
        assert "all_parameters" not in sparsity
