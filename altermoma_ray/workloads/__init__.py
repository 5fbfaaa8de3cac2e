"""Workloads: a model to prune, its task and its data in one object, found by a reference which every process can load.

:mod:`altermoma_ray.workloads.protocols` lists the methods which a search calls on a model, a task and a data source.
"""

from altermoma_ray.workloads.recipe import Recipe, Stage
from altermoma_ray.workloads.reference import WorkloadReference, find_workload
from altermoma_ray.workloads.workload import Workload

__all__ = ["Recipe", "Stage", "Workload", "WorkloadReference", "find_workload"]
