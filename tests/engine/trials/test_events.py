"""When a trial prunes, evaluates and looks whether to keep its state."""

from __future__ import annotations

from altermoma_ray.engine.trials.events import Event, events_of


def test_what_falls_on_one_step_is_one_event():
    plan = [(0, "first"), (4, "second"), (6, "last")]
    assert events_of(plan, rungs=(0.1, 0.5), steps=8) == [
        Event(step=0, masks="first"),
        Event(step=1, is_evaluated=True),
        Event(step=2),
        Event(step=3),
        Event(step=4, masks="second", is_evaluated=True),
        Event(step=5),
        Event(step=6, masks="last"),
        Event(step=7),
        Event(step=8, is_evaluated=True),
    ]


def test_a_long_fine_tuning_pauses_some_twenty_times():
    events = events_of([(0, "masks")], rungs=(), steps=1000)
    assert [event.step for event in events] == [*range(0, 1000, 50), 1000]
    assert [event.step for event in events if event.is_evaluated] == [1000]
