"""The events of a trial's fine-tuning: when it prunes, evaluates, and may keep its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from altermoma_ray.pruning import Masks

_PAUSES = 20
"""How often in its fine-tuning a trial looks whether to keep its state."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A pause in fine-tuning, after which training goes on. The state may be kept at every event."""

    step: int
    """Fine-tuning steps that are done by then."""
    masks: Masks | None = None
    """The masks that hold from then on; None leaves them as they are."""
    is_evaluated: bool = False
    """Whether the model is evaluated, after it was pruned."""


def step_of(rung: float, steps: int) -> int:
    """The fine-tuning step at which a rung lies.

    >>> step_of(0.25, steps=60)
    15

    Args:
        rung: share of the fine-tuning, above 0.
        steps: length of the whole fine-tuning.
    """
    return max(1, round(rung * steps))


def events_of(plan: Sequence[tuple[int, Masks]], rungs: Sequence[float], steps: int) -> list[Event]:
    """All events of a fine-tuning, one for each step at which there is something to do, the first at step 0.

    Args:
        plan: the steps at which the model is pruned, rising from 0, and the masks of each.
        rungs: shares of the fine-tuning at which the model is evaluated, beside its end.
        steps: length of the whole fine-tuning.
    """
    prune_at = dict(plan)
    evaluate_at = {step_of(rung, steps) for rung in (*rungs, 1.0)}
    pauses = range(0, steps, max(1, steps // _PAUSES))
    return [
        Event(step=step, masks=prune_at.get(step), is_evaluated=step in evaluate_at)
        for step in sorted({*prune_at, *evaluate_at, *pauses})
    ]
