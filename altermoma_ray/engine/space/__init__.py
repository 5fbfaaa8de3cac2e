"""What a search varies (:class:`SearchSpace`), and what one trial does (:class:`PruningSetting`)."""

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
