"""What a search varies (:class:`SearchSpace`), and what one trial does (:class:`PruningSetting`)."""

from altermoma_ray.engine.space.space import REDUNDANCY_CRITERIA, PruningSetting, ScheduleKind, SearchSpace

__all__ = ["REDUNDANCY_CRITERIA", "PruningSetting", "ScheduleKind", "SearchSpace"]
