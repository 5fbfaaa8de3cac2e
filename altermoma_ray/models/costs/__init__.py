"""Predicting the cost of a pruned model from its widths: latency from a table measured once, MACs by counting.

A run of a model is divided into *segments*: from the beginning of one layer to the beginning of the next
(:mod:`altermoma_ray.models.costs.segments`). :func:`measure_costs` times the segments of one model cut to several
widths, and fits the time of each segment to the widths of its layer. The :class:`CostTable` then predicts the latency
of any widths without building the model.
"""

from altermoma_ray.models.costs.measuring import measure_costs
from altermoma_ray.models.costs.table import CostTable, LayerCost

__all__ = ["CostTable", "LayerCost", "measure_costs"]
