"""The rules of the official KITTI metric, followed one by one without any shortcut, to check the real one against."""

from __future__ import annotations

import math

from shapely.geometry import Polygon

LIMITS = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
NEIGHBOUR = {"car": "van", "pedestrian": "person_sitting", "cyclist": None}
LEVELS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}


def ground(labels, row):
    _, width, length = labels.sizes[row]
    x, _, z = labels.locations[row]
    turn = labels.rotation_y[row]
    corners = [(length / 2, width / 2), (length / 2, -width / 2), (-length / 2, -width / 2), (-length / 2, width / 2)]
    return Polygon(
        [(x + math.cos(turn) * a + math.sin(turn) * b, z - math.sin(turn) * a + math.cos(turn) * b) for a, b in corners]
    )


class Frame:
    def __init__(self, truth, found):
        self.truth, self.found = truth, found
        self.known = {}

    def overlap(self, i, j, metric, area=False):
        """Of label i and detection j; ``area``: as a share of the detection."""
        key = i, j, metric, area
        if key not in self.known:
            self.known[key] = self.computed(i, j, metric, area)
        return self.known[key]

    def computed(self, i, j, metric, area):
        first, second = ground(self.truth, i), ground(self.found, j)
        shared, own, other = first.intersection(second).area, second.area, first.area
        if metric == "3d":
            heights = self.truth.sizes[i, 0], self.found.sizes[j, 0]
            bottoms = self.truth.locations[i, 1], self.found.locations[j, 1]
            shared *= max(0, min(bottoms) - max(bottoms[0] - heights[0], bottoms[1] - heights[1]))
            own, other = own * heights[1], other * heights[0]
        return shared / own if area else shared / (own + other - shared)

    def role_of_truth(self, i, name, level):
        kind, (top, bottom) = self.truth.types[i].lower(), self.truth.boxes_2d[i, [1, 3]]
        height, occlusion, truncation = LEVELS[level]
        if kind == name:
            hard = self.truth.occlusion[i] > occlusion or self.truth.truncation[i] > truncation
            return "ignored" if hard or bottom - top <= height else "valid"
        return "ignored" if kind == NEIGHBOUR[name] else "other"

    def role_of_detection(self, j, name, level):
        top, bottom = self.found.boxes_2d[j, [1, 3]]
        if int(abs(top - bottom)) < LEVELS[level][0]:
            return "low"
        return "valid" if self.found.types[j].lower() == name else "other"

    def match(self, name, level, metric, threshold=None):
        """Scores of the hits, and the number of false alarms; without a threshold, scores decide."""
        free = [
            j
            for j in range(len(self.found))
            if self.role_of_detection(j, name, level) != "other"
            and (threshold is None or self.found.scores[j] >= threshold)
        ]
        hits = []
        for i in range(len(self.truth)):
            if (role := self.role_of_truth(i, name, level)) == "other":
                continue
            best = None
            for j in free:
                if not self.overlap(i, j, metric) > LIMITS[name]:
                    continue
                if best is None:
                    best = j
                elif threshold is None:
                    best = j if self.found.scores[j] > self.found.scores[best] else best
                elif self.role_of_detection(j, name, level) == "valid" and (
                    self.role_of_detection(best, name, level) == "low"
                    or self.overlap(i, j, metric) > self.overlap(i, best, metric)
                ):
                    best = j
            if best is not None:
                free.remove(best)
                if role == "valid" and self.role_of_detection(best, name, level) == "valid":
                    hits.append(self.found.scores[best])
        areas = [i for i in range(len(self.truth)) if self.truth.types[i].lower() == "dontcare"]
        alarms = [
            j
            for j in free
            if self.role_of_detection(j, name, level) == "valid"
            and not any(self.overlap(i, j, metric, area=True) > LIMITS[name] for i in areas)
        ]
        return hits, len(alarms)


def naive(truths, detections):
    frames = [Frame(truths[name], detections[name]) for name in truths]
    return {name: {metric: means(frames, name, metric) for metric in ("3d", "bev")} for name in LIMITS}


def means(frames, name, metric):
    curves = {level: curve(frames, name, level, metric) for level in LEVELS}
    return {
        "r11": {level: 100 * sum(points[::4]) / 11 for level, points in curves.items()},
        "r40": {level: 100 * sum(points[1:]) / 40 for level, points in curves.items()},
    }


def curve(frames, name, level, metric):
    count = sum(frame.role_of_truth(i, name, level) == "valid" for frame in frames for i in range(len(frame.truth)))
    scores = sorted((one for frame in frames for one in frame.match(name, level, metric)[0]), reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(scores):
        closer = (i + 2) / count - recall < recall - (i + 1) / count
        if i == len(scores) - 1 or not closer:
            thresholds.append(score)
            recall += 1 / 40
    points = [0.0] * 41
    for k, threshold in enumerate(thresholds):
        results = [frame.match(name, level, metric, threshold) for frame in frames]
        hits, alarms = sum(len(one[0]) for one in results), sum(one[1] for one in results)
        points[k] = hits / (hits + alarms) if hits + alarms else 0.0
    return [max(points[k:]) for k in range(41)]
