from __future__ import annotations

import numpy as np
import pytest

from altermoma_ray.data.kitti.labels import parse_labels
from altermoma_ray.tasks.metrics.kitti import evaluate
from altermoma_ray.tasks.metrics.kitti.matching import thresholds
from tests.tasks.metrics.kitti_naive import naive

ENOUGH = 41
"""Objects from which on every recall point can be reached."""


def line(kind="Car", *, x=0.0, y=1.5, z=20.0, height=60.0, size=(1.5, 2.0, 4.0), turn=0.0, truncation=0.0, occlusion=0):
    """A label; ``height`` is that of the picture's box (px)."""
    box = f"100 100 200 {100 + height}"
    return f"{kind} {truncation} {occlusion} -10 {box} {' '.join(map(str, size))} {x} {y} {z} {turn}"


def found(score=0.5, **label):
    return f"{line(**label)} {score}"


def figures(frames):
    """The metric of frames, each with its labels and its detections."""
    truths = {str(n): parse_labels("\n".join(one), "truth", scored=False) for n, (one, _) in enumerate(frames)}
    results = {str(n): parse_labels("\n".join(one), "found", scored=True) for n, (_, one) in enumerate(frames)}
    return evaluate(truths, results)


def car(frames, level="easy", metric="3d", mean="r40"):
    return figures(frames)["car"][metric][mean][level]


def perfect(count):
    """Frames with one car each, found with falling scores."""
    return [([line()], [found(1 - n / 1000)]) for n in range(count)]


def test_the_figures_are_all_there():
    levels = dict.fromkeys(("easy", "moderate", "hard"), 0.0)
    means = {"r11": levels, "r40": levels}
    assert figures([([], [])]) == {name: {"3d": means, "bev": means} for name in ("car", "pedestrian", "cyclist")}
    assert evaluate({}, {}) == figures([([], [])])


@pytest.mark.parametrize(
    ("count", "r11", "r40"),
    [(1, 100 / 11, 0), (2, 100 / 11, 2.5), (40, 1000 / 11, 97.5), (41, 100, 100), (100, 100, 100)],
)
def test_the_ground_truth_itself_needs_41_objects_for_all(count, r11, r40):
    ours = figures(perfect(count))["car"]
    for metric in ("3d", "bev"):
        for level in ("easy", "moderate", "hard"):
            assert ours[metric]["r11"][level] == pytest.approx(r11, abs=1e-9)
            assert ours[metric]["r40"][level] == pytest.approx(r40, abs=1e-9)


def test_thresholds_skip_scores_closer_to_the_next_recall_point():
    # Points are two scores apart: after the first two scores, every other one is closer to its point.
    assert thresholds(range(80), objects=80) == [79, *range(78, -1, -2)]
    assert thresholds([5.0, 5.0, 1.0], objects=3) == [5.0, 5.0, 1.0]
    assert thresholds([], objects=0) == []
    for count in (39, 40, 41, 42, 43, 81, 82, 1000, 14_385):
        assert len(thresholds(range(count), objects=count)) == min(count, 41)


def test_half_of_the_objects_found():
    frames = perfect(100)
    missed = [(truth, []) for truth, _ in frames]
    # 100 of 200 objects: thresholds up to recall 1/2, so that points 0 to 20 are reached.
    assert car(frames + missed) == pytest.approx(50)


def test_an_empty_file_counts_its_objects_as_missed():
    frames = perfect(ENOUGH)
    assert car([*frames, *[([line()], [])] * ENOUGH]) < car([*frames, *[([], [])] * ENOUGH]) == 100


def test_false_alarms_above_the_hits_lower_every_point():
    assert car([*perfect(50), *[([], [found(2.0)])] * 50]) == pytest.approx(50)
    assert car([*perfect(50), *[([], [found(0.0)])] * 50]) == 100


@pytest.mark.parametrize(
    ("class_name", "kind", "neighbour", "size"),
    [
        ("car", "Car", "Van", (1.5, 2.0, 4.0)),
        ("pedestrian", "Pedestrian", "Person_sitting", (2.0, 0.5, 1.0)),
        ("cyclist", "cYCLIST", None, (2.0, 0.5, 2.0)),
    ],
)
def test_neighbours_are_ignored_and_other_types_are_not(class_name, kind, neighbour, size):
    one = [([line(kind.upper(), size=size)], [found(1 - n / 1000, kind=kind, size=size)]) for n in range(50)]
    for other, percent in ((neighbour, 100), ("Truck", 50), ("Misc", 50)):
        if other is None:
            continue
        for spelling in (other, other.lower()):
            frames = [*one, *[([line(spelling, size=size)], [found(2.0, kind=kind, size=size)])] * 50]
            assert figures(frames)[class_name]["3d"]["r40"]["easy"] == pytest.approx(percent)
            # Those not found are not missed, either.
            frames = [*one, *[([line(spelling, size=size)], [])] * 50]
            assert figures(frames)[class_name]["3d"]["r40"]["easy"] == 100


def test_detections_of_a_neighbour_do_not_hit():
    assert car([([line()], [found(kind="Van")])] * ENOUGH) == 0


def test_dont_care_swallows_nothing_in_space():
    # The picture's boxes of both are the same.
    plain = line("DontCare", x=-1000, y=-1000, z=-1000, size=(-1, -1, -1), turn=-10, truncation=-1, occlusion=-1)
    assert car([*perfect(50), *[([plain], [found(2.0)])] * 50], metric="bev") == pytest.approx(50)


def test_dont_care_with_a_box_swallows_by_its_share_of_the_detection():
    wide = line("dontcare", size=(9.0, 9.0, 9.0), y=5.0)
    frames = [*perfect(50), *[([wide], [found(2.0), found(2.0, x=0.5)])] * 50]
    assert car(frames) == car(frames, metric="bev") == 100
    # Half of the detection lies within: not more than 0.7.
    half = line("DontCare", x=2.0)
    assert car([*perfect(50), *[([half], [found(2.0)])] * 50]) == pytest.approx(50)


def test_detections_without_a_box_in_space_are_swallowed_in_bev_alone():
    nowhere = {"x": -1000, "y": -1000, "z": -1000, "size": (-1, -1, -1), "turn": -10}
    frames = [*perfect(50), *[([line("DontCare", **nowhere)], [found(2.0, **nowhere)])] * 50]
    assert (car(frames, metric="bev"), car(frames)) == (100, pytest.approx(50))


@pytest.mark.parametrize(
    ("label", "levels"),
    [
        ({"height": 40.01}, "easy moderate hard"),
        ({"height": 40}, "moderate hard"),
        ({"height": 25.01}, "moderate hard"),
        ({"height": 25}, ""),
        ({"occlusion": 1}, "moderate hard"),
        ({"occlusion": 2}, "hard"),
        ({"occlusion": 3}, ""),
        ({"truncation": 0.15}, "easy moderate hard"),
        ({"truncation": 0.16}, "moderate hard"),
        ({"truncation": 0.30}, "moderate hard"),
        ({"truncation": 0.31}, "hard"),
        ({"truncation": 0.50}, "hard"),
        ({"truncation": 0.51}, ""),
    ],
)
def test_limits_of_the_levels(label, levels):
    # An object beyond a level is missed by nobody, and its detection is no false alarm.
    frames = perfect(60)
    missed = figures([*frames, *[([line(**label)], [])] * 60])["car"]["3d"]["r40"]
    hit = figures([*frames, *[([line(**label)], [found(2.0)])] * 60])["car"]["3d"]["r40"]
    for level in ("easy", "moderate", "hard"):
        assert missed[level] == (pytest.approx(50) if level in levels.split() else 100), level
        assert hit[level] == 100


@pytest.mark.parametrize(("height", "easy", "moderate"), [(40, 0, 0), (39.99, 1, 0), (25, 1, 0), (24.99, 1, 1)])
def test_low_detections_are_no_false_alarms(height, easy, moderate):
    frames = [*perfect(50), *[([], [found(2.0, height=height)])] * 50]
    assert car(frames) == pytest.approx(100 if easy else 50)
    assert car(frames, "moderate") == pytest.approx(100 if moderate else 50)


def test_a_picture_box_upside_down_has_its_height():
    assert car([([line()], [found(height=-60)])] * ENOUGH) == 100


@pytest.mark.parametrize("kind", ["Car", "Pedestrian", "anything"])
def test_low_detections_of_any_class_take_an_object_by_their_score(kind):
    low = found(2.0, kind=kind, height=20)
    # The surer low one leaves no threshold, so that nothing of the curve is reached.
    assert car([([line()], [found(0.5), low])] * ENOUGH) == 0
    assert car([([line()], [found(0.5), low.replace("2.0", "0.4")])] * ENOUGH) == 100


def test_low_detections_are_the_last_choice_for_the_curve():
    # The low one comes first and fits better; the other one hits, with every threshold that it reaches.
    low, high = found(0.4, height=20), found(0.5, x=0.2)
    assert car([([line()], [low, high])] * ENOUGH) == 100


def test_the_curve_takes_the_greatest_overlap_and_thresholds_the_highest_score():
    sure, near = found(0.9, x=0.3), found(0.6)
    # Thresholds are 0.9: the other one does not take part, and is no false alarm.
    assert car([([line()], [near, sure])] * ENOUGH) == 100
    # Now 0.6 is a threshold, where each object leaves one of its two detections over.
    frames = [*[([line()], [near, sure])] * 50, *[([line()], [found(0.6)])] * 50]
    assert car(frames) == pytest.approx((20 * 100 + 20 * 200 / 3) / 40)


def test_the_curve_leaves_the_second_best_to_the_next_object():
    # Both objects accept the first detection; the other one fits the first object better, and no other.
    objects, results = [line(x=0.0), line(x=0.4)], [found(0.5, x=0.35), found(0.6, x=-0.32)]
    assert car([(objects, results)] * ENOUGH) == 100
    assert car([(objects, results[::-1])] * ENOUGH) == 100


def test_of_two_detections_of_an_object_one_is_a_false_alarm():
    assert car([([line()], [found(0.5), found(0.5)])] * ENOUGH) == pytest.approx(50)


def test_equal_scores_may_be_thresholds_more_than_once():
    frames = [([line()], [found(0.5)])] * ENOUGH
    assert car(frames) == 100
    assert car([*frames, *[([], [found(0.5)])] * ENOUGH]) == pytest.approx(50)


def test_ties_go_to_the_first_line():
    # Both objects accept the first detection, and the second object alone accepts the other one.
    objects = [line(x=0.0), line(x=0.25)]
    results = [found(0.5, x=0.125), found(0.5, x=0.5)]
    assert car([(objects, results)] * ENOUGH) == 100
    # In another order, the first object in the file leaves nothing to the second.
    assert car([(objects[::-1], results)] * ENOUGH) == 100
    swapped = [found(0.5, x=0.5), found(0.5, x=0.125)]
    assert car([(objects[::-1], swapped)] * ENOUGH) == naive_car([(objects[::-1], swapped)] * ENOUGH)


def naive_car(frames):
    truths = {str(n): parse_labels("\n".join(one), "truth", scored=False) for n, (one, _) in enumerate(frames)}
    results = {str(n): parse_labels("\n".join(one), "found", scored=True) for n, (_, one) in enumerate(frames)}
    return pytest.approx(naive(truths, results)["car"]["3d"]["r40"]["easy"])


def test_ignored_objects_are_served_in_the_order_of_the_file():
    ignored = line(occlusion=3)
    one = found(0.5)
    assert car([([ignored, line()], [one])] * ENOUGH) == 0
    assert car([([line(), ignored], [one])] * ENOUGH) == 100


@pytest.mark.parametrize(
    ("class_name", "size", "at_limit", "above"),
    [
        # The quotients are those of whole numbers: 7 / 10 and 1 / 2 are just the limits.
        ("car", (1.5, 2.0, 5.0), (1.5, 2.0, 3.5), (1.5, 2.0, 3.5625)),
        ("pedestrian", (2.0, 0.5, 1.0), (2.0, 0.5, 0.5), (2.0, 0.5, 0.5625)),
        ("cyclist", (2.0, 0.5, 2.0), (1.0, 0.5, 2.0), (1.0625, 0.5, 2.0)),
    ],
)
@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_the_overlap_must_exceed_its_limit(class_name, size, at_limit, above, turn):
    for found_size, percent in ((at_limit, 0), (above, 100)):
        if turn and not percent:
            continue  # a turned box is not exact in binary
        frames = [
            (
                [line(class_name, size=size, turn=turn, x=3.0)],
                [found(kind=class_name, size=found_size, turn=turn, x=3.0)],
            )
        ] * ENOUGH
        assert figures(frames)[class_name]["3d"]["r40"]["easy"] == percent


@pytest.mark.parametrize(
    ("box", "space", "bev"),
    [
        ({"y": 1.5 + 0.2}, 100, 100),
        ({"y": 1.5 + 0.5}, 0, 100),
        ({"turn": np.pi}, 100, 100),
        ({"turn": np.pi / 2}, 0, 0),
        ({"x": 0.7}, 100, 100),
        ({"x": 0.8}, 0, 0),
        ({"z": 20.8}, 0, 0),
        ({"size": (1.5, 2.0, -4.0)}, 0, 0),
        ({"size": (1.5, 1.5, -2.0)}, 0, 0),
        ({"size": (1.5, 0.0, 0.0)}, 0, 0),
    ],
)
def test_overlaps_in_space_and_from_above(box, space, bev):
    frames = [([line()], [found(**box)])] * ENOUGH
    assert (car(frames), car(frames, metric="bev")) == (space, bev)


def test_headings_turn_as_in_kitti():
    # Turned by 45°, the car's front lies right of and nearer than its middle: x grows, z falls.
    truth = line(turn=np.pi / 4)
    ahead = found(turn=np.pi / 4, x=0.4, z=19.6)
    aside = found(turn=np.pi / 4, x=0.4, z=20.4)
    assert car([([truth], [ahead])] * ENOUGH) == 100
    assert car([([truth], [aside])] * ENOUGH) == 0


def test_scores_of_any_sign_and_the_programs_lowest():
    assert car([([line()], [found(-n - 5.0)]) for n in range(ENOUGH)]) == 100
    # The program marks "no detection" by this score.
    assert car([([line()], [found(-1e7)])] * ENOUGH) == 0


def test_a_threshold_without_hits_and_false_alarms_counts_as_nothing():
    # By score, the ignored object takes the low detection and leaves the other one to the valid object. By overlap,
    # the ignored object takes it: no hit is left, and the low detection is no false alarm.
    objects = [line(x=0.0, occlusion=3), line(x=0.3)]
    strange = [(objects, [found(0.5, x=0.15), found(0.9, x=-0.6, height=20)])] * ENOUGH
    assert car(strange) == 0
    assert car([*strange, *[([line()], [found(-n)]) for n in range(ENOUGH)]]) == 100


def test_frames_must_be_the_same_and_detections_scored():
    labels = parse_labels(line(), "a", scored=False)
    scored = parse_labels(found(), "a", scored=True)
    with pytest.raises(ValueError, match="must be of the same frames, but one of them lacks '2'"):
        evaluate({"1": labels, "2": labels}, {"1": scored})
    with pytest.raises(ValueError, match="those of frame '1' have none"):
        evaluate({"1": labels}, {"1": labels})


def test_absurd_numbers_overlap_nothing(recwarn):
    huge = {"x": 1e300, "size": (1e300, 1e300, 1e300)}
    assert car([([line(**huge)], [found(**huge)])] * ENOUGH) == 0
    assert not recwarn.list


@pytest.mark.parametrize("seed", range(3))
def test_against_the_rules_followed_one_by_one(seed):
    truths, results = random_folder(np.random.default_rng(seed), frames=(5, 20, 40)[seed])
    ours, expected = evaluate(truths, results), naive(truths, results)
    assert any(value for name in ours for value in ours[name]["bev"]["r11"].values())
    for name, metric, mean in ((n, m, k) for n in ours for m in ours[n] for k in ours[n][m]):
        assert ours[name][metric][mean] == pytest.approx(expected[name][metric][mean], abs=1e-9), (name, metric, mean)


def random_folder(random, frames):
    """Frames of crowded objects, with scores that are often equal, heights at the limits and boxes of DontCare."""
    kinds = ["Car", "car", "Van", "Pedestrian", "Person_sitting", "Cyclist", "Truck", "DontCare"]
    sizes = {"c": (1.5, 1.7, 4.0), "v": (1.9, 1.8, 4.3), "p": (1.75, 0.7, 0.9), "t": (3, 2.5, 9), "d": (2, 3.0, 4.0)}
    truths, results = {}, {}
    for frame in range(frames):
        labels, detections = [], []
        for _ in range(random.integers(0, 12)):
            kind = str(random.choice(kinds))
            label = {
                "height": float(random.choice([24.9, 25, 30, 40, 45, 60, 80])),
                "size": random.uniform(0.9, 1.1, 3) * sizes[kind[0].lower()],
                "turn": random.uniform(-4, 4),
                "x": random.uniform(-5, 5),
                "z": random.uniform(5, 15),
            }
            far = {
                "truncation": random.choice([0, 0, 0.15, 0.3, 0.4, 0.6]),
                "occlusion": random.choice([0, 0, 1, 2, 3]),
            }
            labels.append(line(kind, **label, **far))
            for _ in range(random.integers(0, 4)):
                change = random.choice([0.01, 0.05, 0.2])
                seen = {
                    **label,
                    "size": label["size"] * np.exp(random.normal(0, change, 3)),
                    "height": label["height"] + float(random.choice([0, 0, -15, 10])),
                    "x": label["x"] + random.normal(0, change),
                    "z": label["z"] + random.normal(0, change),
                    "turn": label["turn"] + random.normal(0, change),
                }
                other = str(random.choice(kinds)) if random.random() < 0.2 else kind
                detections += [found(random.integers(-4, 8) / 4, kind=other, **seen)] * random.integers(1, 3)
        truths[str(frame)] = parse_labels("\n".join(labels), "truth", scored=False)
        results[str(frame)] = parse_labels("\n".join(random.permutation(detections)), "found", scored=True)
    return truths, results
