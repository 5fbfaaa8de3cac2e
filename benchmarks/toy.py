"""The toy search that most benchmarks run: a synthetic nuScenes and the checkpoint that comes with the project."""

from __future__ import annotations

import argparse
from pathlib import Path

from altermoma_ray.data.nuscenes.prepare import data_source
from altermoma_ray.data.nuscenes.source import DataSource
from altermoma_ray.engine.search.plan import SearchPlan, plan_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.storage import Location


def toy_plan(
    options: argparse.Namespace, *, space: SearchSpace, trials: int = 1, storage: Path | None = None
) -> SearchPlan:
    """A search on the toy, in a storage folder of its own where its scoring and trials are measured from nothing.

    The index is built: opening the data is no part of what these benchmarks measure.
    """
    source = data_source("nusc", options.dataroot, None, options.storage)
    if storage is not None:
        source = DataSource(dataroot=source.dataroot, version=source.version, storage=str(Location.parse(storage)))
        source.index()
    return plan_search(
        name=None,
        dataset="nusc",
        source=source,
        synthetic=True,
        checkpoint=options.checkpoint,
        space=space,
        sparsity=0.85,
        trials=trials,
        repeat=True,  # so many trials are measured, whatever their settings are
        seed=options.seed,
    )
