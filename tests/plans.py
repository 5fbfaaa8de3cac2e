"""Plans of searches on the toy model, as the commands make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.workloads.reference import WorkloadReference, find_workload


def toy_workload(storage: object, dataroot: object = None, **asked: Any) -> WorkloadReference:
    """The toy model on a nuScenes, or on the synthetic set of a storage."""
    root = None if dataroot is None else str(dataroot)
    return find_workload("nusc", str(storage), dataroot=root, **{"model": "bevfusion-mit-toy", **asked})


def toy_plan(storage: object, dataroot: object = None, **fields: Any) -> SearchPlan:
    """A plan that is not saved; ``fields`` are those of :class:`SearchRequest`."""
    defaults: dict[str, Any] = {"space": SearchSpace(), "sparsity": 0.8}
    request = {**defaults, **fields}
    checkpoint = request.get("checkpoint")
    if isinstance(checkpoint, Path):
        request["checkpoint"] = str(checkpoint)
    return plan_search(SearchRequest(workload=toy_workload(storage, dataroot), **request))
