"""The events of a trial's fine-tuning: when it prunes, evaluates, and may keep its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from altermoma_ray.pruning import Masks

ChooseMasks = Callable[[], Masks]
"""Chooses masks once they are wanted: of 40 million weights in more than a second of one core."""
_PAUSES = 20
"""Number of times in its fine-tuning a trial looks whether to keep its state."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A pause in fine-tuning, after which training goes on. The state may be kept at every event.

    >>> Event(step=15, is_evaluated=True)
    Event(step=15, masks=None, is_evaluated=True)
    """

    step: int
    """Number of fine-tuning steps done by then."""
    masks: ChooseMasks | None = None
    """Gives the masks which hold from then on; None leaves the masks unchanged."""
    is_evaluated: bool = False
    """Whether the model is evaluated, after its pruning."""


def step_of(rung: float, steps: int) -> int:
    """The fine-tuning step at which a rung lies.

    >>> step_of(0.25, steps=60)
    15

    Args:
        rung: share of the fine-tuning.
        steps: length of the whole fine-tuning.
    """
    # Only rung 0 lies before any training: a later rung of a short fine-tuning has at least one step.
    return max(1, round(rung * steps)) if rung > 0 else 0


def events_of(plan: Sequence[tuple[int, ChooseMasks]], rungs: Sequence[float], steps: int) -> list[Event]:
    """All events of a fine-tuning, one for each step with something to do, the first at step 0.

    >>> [event.step for event in events_of([(0, lambda: Masks({}))], rungs=[0.5], steps=4)]
    [0, 1, 2, 3, 4]

    Args:
        plan: the steps at which the model is pruned, rising from 0, and what gives the masks of each.
        rungs: shares of the fine-tuning at which the model is evaluated, beside its end.
        steps: length of the whole fine-tuning.
    """
    prune_at = dict(plan)
    # Rungs of a short fine-tuning may fall on one step, or on the end: as a set they make one evaluation.
    evaluate_at = {step_of(rung, steps) for rung in (*rungs, 1.0)}
    # Pauses lie at steps, which all workers count alike; only rank 0 then looks at its clock.
    pauses = range(0, steps, max(1, steps // _PAUSES))
    return [
        Event(step=step, masks=prune_at.get(step), is_evaluated=step in evaluate_at)
        for step in sorted({*prune_at, *evaluate_at, *pauses})
    ]
