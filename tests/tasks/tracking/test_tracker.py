from __future__ import annotations

import numpy as np
import pytest

from altermoma_ray.models.configurations.tracker import TrackerConfig
from altermoma_ray.tasks.tracking.metrics import TRACKED
from altermoma_ray.tasks.tracking.tracker import UNTRACKED, Tracker

CLASSES = ("car", "pedestrian", "barrier")
CAR, PEDESTRIAN, BARRIER = range(3)


def follow(frames, *, seconds=0.5, **config):
    """Identities of each frame, whose detections are (label, x, y, vx, vy), best first."""
    tracker = Tracker(TrackerConfig(**config), classes=CLASSES)
    found = []
    for frame in frames:
        table = np.array(frame, float).reshape(-1, 5)
        found.append(tracker.step(table[:, 1:3], table[:, 3:5], table[:, 0].astype(int), seconds=seconds).tolist())
    return found


def car(x, y=0.0, vx=0.0, vy=0.0):
    return CAR, x, y, vx, vy


def test_two_that_cross_keep_their_identities_by_their_velocities():
    """After the crossing each stands nearer to the place of the other than to its own."""
    frames = [
        [car(-1, 0.0, vx=4), car(1, 0.5, vx=-4)],
        [car(-1, 0.5, vx=-4), car(1, 0.0, vx=4)],
        [car(3, 0.0, vx=4), car(-3, 0.5, vx=-4)],
    ]
    assert follow(frames) == [[0, 1], [1, 0], [0, 1]]
    standing = [[(label, x, y, 0, 0) for label, x, y, _, _ in frame] for frame in frames]
    assert follow(standing[:2]) == [[0, 1], [0, 1]]


def test_an_occluded_car_is_found_again_where_it_must_have_gone():
    seen, hidden = [car(8 * time, vx=16) for time in range(5)], []
    assert follow([[seen[0]], hidden, hidden, [seen[3]]]) == [[0], [], [], [0]]
    # After three frames without a detection it is given up.
    assert follow([[seen[0]], hidden, hidden, hidden, [seen[4]]]) == [[0], [], [], [], [1]]
    assert follow([[seen[0]], hidden, [seen[2]]], max_age=1) == [[0], [], [1]]


def test_a_frame_left_out_doubles_the_way():
    tracker = Tracker(TrackerConfig(), classes=CLASSES)
    tracker.step([[0, 0]], [[20, 0]], [CAR], seconds=0.5)
    assert tracker.step([[20, 0]], [[20, 0]], [CAR], seconds=1.0).tolist() == [0]
    other = Tracker(TrackerConfig(), classes=CLASSES)
    other.step([[0, 0]], [[20, 0]], [CAR], seconds=0.5)
    assert other.step([[20, 0]], [[20, 0]], [CAR], seconds=0.5).tolist() == [1]


def test_a_birth_and_a_death():
    frames = [[car(0)], [car(0), car(20)], [car(20)], [car(20)]]
    assert follow(frames) == [[0], [0, 1], [1], [1]]


def test_the_better_detection_chooses_first_and_the_other_takes_what_is_left():
    assert follow([[car(0), car(3)], [car(1), car(0.5)]]) == [[0, 1], [0, 1]]
    assert follow([[car(0)], [car(1), car(0.5)]]) == [[0], [0, 1]]


def test_classes_are_kept_apart_and_have_their_own_reach():
    assert follow([[(CAR, 0, 0, 0, 0)], [(PEDESTRIAN, 0, 0, 0, 0)]]) == [[0], [1]]
    assert follow([[(CAR, 0, 0, 0, 0)], [(CAR, 4, 0, 0, 0)], [(CAR, 8.01, 0, 0, 0)]]) == [[0], [0], [1]]
    assert follow([[(PEDESTRIAN, 0, 0, 0, 0)], [(PEDESTRIAN, 1.5, 0, 0, 0)]]) == [[0], [1]]


def test_what_is_not_tracked_gets_no_identity_and_no_track():
    assert follow([[(BARRIER, 0, 0, 0, 0), car(0)], [(BARRIER, 0, 0, 0, 0), car(0)]]) == [[UNTRACKED, 0]] * 2


def test_an_unknown_velocity_is_rest():
    assert follow([[car(0)], [car(0.5, vx=np.nan, vy=np.nan)]]) == [[0], [0]]


def naive(frames, config, seconds):
    """The rules one by one, on lists."""
    tracks, born, found = [], 0, []
    for frame in frames:
        identities, seen = [], []
        for label, x, y, vx, vy in frame:
            if CLASSES[int(label)] not in config.limits:
                identities.append(UNTRACKED)
                continue
            reach = []
            for position, track in enumerate(tracks):
                far = np.hypot(x - vx * seconds - track["x"], y - vy * seconds - track["y"])
                if track["label"] == label and not track["taken"] and far <= config.limits[CLASSES[int(label)]]:
                    reach.append((far, position))
            if reach:
                track = tracks[min(reach)[1]]
                track["taken"], identity = True, track["identity"]
            else:
                identity, born = born, born + 1
            identities.append(identity)
            seen.append({"label": label, "x": x, "y": y, "v": (vx, vy), "identity": identity, "age": 1, "taken": False})
        for track in tracks:
            if not track["taken"] and track["age"] < config.max_age:
                x, y = track["x"] + track["v"][0] * seconds, track["y"] + track["v"][1] * seconds
                seen.append({**track, "x": x, "y": y, "age": track["age"] + 1})
        tracks = seen
        found.append(identities)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_identities_are_those_of_a_naive_tracker(seed):
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(12):
        count = random.integers(0, 12)
        label = random.integers(0, 3, count)
        frames.append(np.column_stack((label, random.uniform(-8, 8, (count, 2)), random.normal(0, 2, (count, 2)))))
    config = TrackerConfig()
    assert follow(frames) == naive(frames, config, 0.5)


def test_the_published_classes_are_the_official_ones():
    from altermoma_ray.tasks.metrics.nuscenes_tracking import CONFIGURATION

    assert list(TRACKED) == CONFIGURATION.class_names == sorted(TrackerConfig().limits)
