"""The ranges of a search (:class:`SearchSpace`) and the configuration of one trial (:class:`PruningSetting`).

>>> SearchSpace(criteria=("snip", "taylor"), sparsity=(0.8, 0.9)).range_of("sparsity").ends
(0.8, 0.9)
"""

from altermoma_ray.engine.space.ranges import Choice, Fixed, Float, Range
from altermoma_ray.engine.space.setting import PruningSetting
from altermoma_ray.engine.space.space import SearchSpace
from altermoma_ray.engine.space.suggesting import SuggestContext, SuggestedSpace
from altermoma_ray.pruning import ScheduleKind

__all__ = [
    "Choice",
    "Fixed",
    "Float",
    "PruningSetting",
    "Range",
    "ScheduleKind",
    "SearchSpace",
    "SuggestContext",
    "SuggestedSpace",
]
