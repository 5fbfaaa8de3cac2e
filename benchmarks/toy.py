"""The toy search that most benchmarks run: a synthetic nuScenes and the checkpoint that comes with the project."""

from __future__ import annotations

import argparse
from pathlib import Path

from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.storage import Location
from altermoma_ray.workloads.nusc import SHIPPED, TOY
from altermoma_ray.workloads.reference import find_workload


def toy_plan(
    options: argparse.Namespace,
    *,
    space: SearchSpace,
    trials: int = 1,
    storage: Path | None = None,
    sparsity: float = 0.85,
    name: str | None = None,
) -> SearchPlan:
    """A search on the toy, in a storage folder of its own where its scoring and trials are measured from nothing.

    The index is built: opening the data is no part of what these benchmarks measure.
    """
    workload = find_workload("nusc", options.storage, dataroot=options.dataroot, model=TOY)
    workload.load().source().prepare()
    if storage is not None:
        dataroot = workload.asked()["dataroot"]
        workload = find_workload("nusc", str(Location.parse(storage)), dataroot=dataroot, model=TOY)
        workload.load().source().fingerprint("train")  # builds the index
    request = SearchRequest(
        workload=workload,
        checkpoint=options.checkpoint or str(SHIPPED),
        name=name,
        space=space,
        sparsity=sparsity,
        trials=trials,
        repeat=True,  # so many trials are measured, whatever their settings are
        seed=options.seed,
    )
    return plan_search(request)
