"""Which labelled objects of KITTI are found, on hand-made frames, and the picture of one."""

from __future__ import annotations

from altermoma_ray.data.kitti.labels import parse_labels
from altermoma_ray.tasks.metrics.kitti.objects import found_objects


def line(kind="Car", *, x=0.0, z=15.0, height=60, occlusion=0):
    """A label 2 m wide and 4 m long, which looks along x; ``height`` is that of the picture's box (px)."""
    return f"{kind} 0 {occlusion} -10 100 100 200 {100 + height} 1.5 2 4 {x} 1.5 {z} 0"


def found(truth, results):
    labels, scored = parse_labels("\n".join(truth), "truth", scored=False), "\n".join(results)
    return found_objects({"000007": labels}, {"000007": parse_labels(scored, "found", scored=True)}, {"000007": 3})


def test_the_surest_detection_chooses_first_and_takes_the_greatest_overlap():
    truth = [line(), line(x=6.0, z=25.0, occlusion=1), line(x=-6.0, z=45.0, occlusion=2)]
    # Moved by 0.4 m of 4 m, a box overlaps by 3.6 / 4.4 = .82, by 0.8 m by .67: below the limit of .7 for cars.
    told = found(truth, [f"{line(x=0.4)} 0.9", f"{line()} 0.6", f"{line(x=6.8, z=25.0)} 0.8"])
    assert [one.score for one in told.objects] == [0.9, 0, 0]
    assert sorted(told.false_alarms) == [0.6, 0.8]
    assert [(one.name, one.row) for one in told.objects] == [("000007:0", 3), ("000007:1", 3), ("000007:2", 3)]
    assert [one.slices for one in told.objects] == [
        {"class": "car", "range": "up to 20 m", "visibility": "visible"},
        {"class": "car", "range": "20 to 40 m", "visibility": "partly hidden"},
        {"class": "car", "range": "40 m and more", "visibility": "largely hidden"},
    ]


def test_what_the_official_metric_ignores_is_neither_an_object_nor_a_false_alarm():
    ignored = [line("Van"), line(x=10.0, height=25), line(x=20.0, occlusion=3)]
    results = [f"{line()} 0.9", f"{line(x=10.0)} 0.8", f"{line(x=20.0)} 0.7", f"{line(x=-20.0, height=24)} 0.6"]
    assert found(ignored, results).objects == found(ignored, results).false_alarms == ()
    # A pedestrian's box at a car's place is one: it is of another class.
    assert found([line()], [f"{line('Pedestrian')} 0.5"]).false_alarms == (0.5,)
    assert found([line()], []).objects[0].score == 0
