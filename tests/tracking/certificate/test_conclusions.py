"""From figures of both models to a certificate, its sentences and its page."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from altermoma_ray.tracking.certificate import text
from altermoma_ray.tracking.certificate.conclusions import MOST_LOST, certify
from altermoma_ray.tracking.certificate.page import page
from altermoma_ray.tracking.certificate.records import Certificate, Measured, ObjectFigures, Pair, SceneFigures
from altermoma_ray.tracking.certificate.text import print_certificate

NAN = float("nan")


def measured(differences, objects=(), **changes):
    fields = {
        "search": "first",
        "trial": 3,
        "dataset": "own",
        "model": "two-branch",
        "validation_part": "reporting",
        "chosen_on_them": False,
        "metric": "score",
        "title": "mean score",
        "direction": "maximize",
        "whole": Pair(unpruned=0.9, champion=0.85),
    }
    return Measured(
        scenes=[
            SceneFigures(
                name=f"scene-{number}",
                samples=2,
                metric=Pair(unpruned=0.5, champion=0.5 + one),
                false_alarms=Pair(unpruned=2, champion=1) if objects else None,
            )
            for number, one in enumerate(differences)
        ],
        thresholds=Pair(unpruned=0.5, champion=0.25) if objects else None,
        objects=list(objects),
        **{**fields, **changes},
    )


def thing(scene, kind, unpruned, champion):
    name = f"{kind}-{scene}-{unpruned}"
    scores = Pair(unpruned=unpruned, champion=champion)
    return ObjectFigures(name=name, row=scene, scene=scene, slices={"class": kind}, scores=scores)


def some_objects():
    """Dogs are lost in every one of 20 scenes; cats are found by both models."""
    dogs = [thing(scene, "dog", 0.5 + scene / 100, 0.2) for scene in range(20)]
    return dogs + [thing(scene, "cat", 0.9, 0.3) for scene in range(20)]


def test_scenes_without_a_figure_are_left_out_and_counted():
    found = certify(measured([0.01, -0.01] * 10 + [NAN, NAN]), margin=0.02)
    assert (found.scenes, found.left_out, found.samples) == (20, 2, 44)
    assert found.difference.mean == pytest.approx(0)
    assert found.no_worse
    assert text.verdict(found).startswith("Shown: mean score is no worse by more than 0.02. With 95 % confidence")
    assert "22 scenes, of which 2 have no mean score. The search has not seen these samples." in text.basis(found)


def test_a_metric_to_be_low_is_turned():
    worse = certify(measured([0.1, 0.12] * 10, direction="minimize"), margin=0.02)
    assert worse.difference.mean == pytest.approx(-0.11)
    assert not worse.no_worse
    assert text.verdict(worse).startswith("Worse: mean score is worse by more than 0.02.")
    assert [scene.metric.difference for scene in worse.worst_scenes] == pytest.approx([0.12] * 5)
    assert certify(measured([-0.1, -0.12] * 10, direction="minimize"), margin=0.02).no_worse


def test_a_wider_margin_turns_an_open_question_into_a_verdict():
    figures = measured([-0.05, 0.03] * 10)
    assert text.verdict(certify(figures, margin=0.02)).startswith("Not shown: mean score may be worse by more than")
    assert certify(figures, margin=0.05).no_worse


def test_few_scenes_have_no_verdict():
    found = certify(measured([0.0] * 9), margin=0.02)
    assert not found.no_worse
    assert text.verdict(found) == "No verdict: 9 scenes have a mean score, and 10 are needed."


def test_slices_tell_what_is_lost_the_worst_first():
    found = certify(measured([0.0] * 20, some_objects()), margin=0.02)
    assert [(one.kind, one.value, one.recall, one.is_worse) for one in found.slices] == [
        ("class", "dog", Pair(unpruned=1.0, champion=0.0), True),
        ("all", "", Pair(unpruned=1.0, champion=0.5), True),
        ("class", "cat", Pair(unpruned=1.0, champion=1.0), False),
    ]
    assert (found.slices[0].low, found.slices[0].high) == (-1.0, -1.0)
    assert (found.lost_in_all, found.gained_in_all) == (20, 0)
    assert [one.name for one in found.lost] == [f"dog-{scene}-{0.5 + scene / 100}" for scene in range(19, 7, -1)]
    assert len(found.lost) == MOST_LOST
    assert found.false_alarms == Pair(unpruned=2, champion=1)
    assert text.losses(found).endswith(
        "Worse beyond chance (3 slices, Holm's correction, 5 %): class dog, all objects."
    )


def test_a_certificate_survives_its_json():
    found = certify(measured([0.0] * 20 + [NAN], some_objects(), whole=Pair(unpruned=NAN, champion=0.5)), margin=0.02)
    again = Certificate.model_validate_json(found.model_dump_json())
    assert again.model_dump_json() == found.model_dump_json()


def test_the_page_is_whole_in_itself_and_says_what_the_figures_say(capsys):
    found = certify(measured([-0.1, -0.12] * 10, some_objects(), search="<first>"), margin=0.02)
    html = page(found, {found.lost[0].name: Image.new("RGB", (8, 8), "red")})
    assert "&lt;first&gt;" in html
    assert "<first>" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count('src="data:image/jpeg;base64,') == 1
    assert html.count("<figcaption>") == MOST_LOST
    print_certificate(found)
    printed = " ".join(capsys.readouterr().out.split())
    for sentence in text.sentences(found):
        assert sentence in printed
        assert sentence.replace("'", "&#39;") in html


def test_a_task_that_tells_no_objects_has_a_page_of_scenes(capsys):
    found = certify(measured([-0.1, -0.12] * 10), margin=0.02)
    html = page(found, {})
    assert "Scenes that lose most" in html
    assert "Objects found" not in html
    print_certificate(found)
    assert "recall" not in capsys.readouterr().out
