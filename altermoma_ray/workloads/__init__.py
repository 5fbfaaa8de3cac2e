"""What is pruned: a model, its task and its data, behind the protocols of :mod:`altermoma_ray.workloads.protocols`."""
