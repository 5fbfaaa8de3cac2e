"""Tables and pictures of a comparison: their exact text, and what they look like."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.tracking.comparison.pictures import ablation_picture, comparison_picture, grid_picture
from altermoma_ray.tracking.comparison.tables import (
    ablation_markdown,
    comparison_csv,
    comparison_markdown,
    grid_markdown,
)
from altermoma_ray.tracking.result import TrialResult

METRICS = FIGURES.columns
REFERENCE = {"map": 0.92, "nds": 0.69}
OUR_COLOUR = (0xD5, 0x5E, 0x00)


class Trials(list):
    """Results, numbered as they are added."""

    def add(self, criterion, scores, sparsity=0.85, **params):
        for seed, score in enumerate(scores):
            failed = score is None
            self.append(
                TrialResult(
                    number=len(self),
                    status="failed" if failed else "finished",
                    reason="the loss is\nnot finite" if failed else None,
                    params={
                        "criterion": criterion,
                        "sparsity": sparsity,
                        "seed": seed,
                        "fine_tune_epochs": 0.2,
                        **params,
                    },
                    metrics={} if failed else {"map": score, "nds": score - 0.2},
                    sparsity={} if failed else {"total": sparsity, "camera": 0.944, "lidar": 0.773, "fusion": 0.782},
                    seconds={} if failed or criterion == "unpruned" else {"criterion": 12.34},
                    started=0,
                    ended=9,
                )
            )
        return self


@pytest.fixture
def results():
    trials = Trials()
    trials.add("unpruned", [0.91, 0.93], sparsity=0.0)
    trials.add("altermoma", [0.80, 0.82])
    trials.add("snip", [0.81, 0.84])
    trials.add("magnitude", [0.71, 0.741])
    trials.add("altermoma", [0.70, None], sparsity=0.9)
    return trials.add("snip", [0.60, 0.65], sparsity=0.9)


def test_comparison_in_markdown(results):
    text = comparison_markdown(results, REFERENCE, METRICS)
    head, _, rest = text.partition("### 85 %")
    assert head == (
        "## Fine-tuning: 0.2 epochs\n\n"
        "Unpruned: mAP .920, NDS .690.\n"
        "Unpruned + 0.2 epochs of fine-tuning: mAP .920 ± .127, NDS .720 ± .127 (2 seeds).\n\n"
        "| criterion | 85 % | 90 % | seeds |\n"
        "| --- | --- | --- | --- |\n"
        "| AlterMOMA | .810 ± .127 | **.700 ± –** (1 of 2) | 1–2 |\n"
        "| SNIP | **.825 ± .191** | .625 ± .318 | 2 |\n"
        "| magnitude | .726 ± .197 | – | 2 |\n\n"
        "- 85 %: SNIP is best; not distinguishable from it: AlterMOMA (+.015 ± .064).\n"
        "- 90 %: AlterMOMA is best; not distinguishable from it: SNIP (+.100 ± –).\n\n"
    )
    detailed, _, last = rest.partition("### 90 %")
    assert detailed == (
        "\n\n| criterion | mAP | NDS | Δ mAP to unpruned | Δ mAP to unpruned + fine-tuning "
        "| sparsity camera / lidar / fusion (%) | seconds to score | seeds |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| AlterMOMA | .810 ± .127 | .610 ± .127 | −.110 ± .127 | −.110 ± .000 | 94.4 / 77.3 / 78.2 | 12.3 | 2 |\n"
        "| SNIP | **.825 ± .191** | **.625 ± .191** | **−.095 ± .191** | **−.095 ± .064** "
        "| 94.4 / 77.3 / 78.2 | 12.3 | 2 |\n"
        "| magnitude | .726 ± .197 | .525 ± .197 | −.195 ± .197 | −.195 ± .070 | 94.4 / 77.3 / 78.2 | 12.3 | 2 |\n\n"
        "- NDS: SNIP is best; not distinguishable from it: AlterMOMA (+.015 ± .064).\n\n"
    )
    assert "| AlterMOMA | **.700 ± –** | **.500 ± –** | **−.220 ± –** | **−.210 ± –** |" in last
    assert "| 12.3 | 1 of 2 |" in last
    assert last.endswith(
        "left out of every mean:\n\n- trial 9 (AlterMOMA, 90 %, seed 1) failed: the loss is not finite\n"
    )


def test_every_budget_has_its_section_and_its_own_unpruned_trials(results):
    results.add("unpruned", [0.95, 0.95], sparsity=0.0, fine_tune_epochs=1.0)
    results.add("snip", [0.90, 0.90], fine_tune_epochs=1.0)
    first, second = comparison_markdown(results, REFERENCE, METRICS).split("## Fine-tuning: 1 epoch\n")
    assert "mAP .920 ± .127" in first
    assert "Unpruned + 1 epoch of fine-tuning: mAP .950 ± .000, NDS .750 ± .000 (2 seeds)." in second
    assert "| SNIP | **.900 ± .000** | **.700 ± .000** | **−.020 ± .000** | **−.050 ± .000** |" in second


def test_ablation_in_markdown(results):
    betas = Trials(result for result in results if result.params["criterion"] == "unpruned")
    betas.add("altermoma", [0.80, 0.81], beta=1.0).add("altermoma", [0.85, 0.87], beta=0.25)
    assert ablation_markdown(betas, "beta", "β", METRICS).startswith(
        "Unpruned + 0.2 epochs of fine-tuning: mAP .920 ± .127, NDS .720 ± .127 (2 seeds).\n\n"
        "| β | AlterMOMA, 85 % | seeds |\n"
        "| --- | --- | --- |\n"
        "| 0.25 | **.860 ± .127** | 2 |\n"
        "| 1 | .805 ± .064 | 2 |\n\n"
        "- AlterMOMA, 85 %: β 0.25 is best; not distinguishable from it: β 1 (+.055 ± .064).\n\n"
        "Mean over seeds"
    )


def test_grid_in_markdown():
    grid = Trials()
    for steps, rate, score in ((8, 1e-3, 0.7), (1, 1e-4, 0.5), (8, 1e-4, 0.6)):
        grid.add("altermoma", [score] * 2, reactivation_steps=steps, reactivation_learning_rate=rate)
    text = grid_markdown(grid, ("reactivation_steps", "reactivation_learning_rate"), ("B", "learning rate"), METRICS)
    assert text.startswith(
        "AlterMOMA, 85 % (2 seeds):\n\n"
        "| B \\ learning rate | 0.0001 | 0.001 |\n"
        "| --- | --- | --- |\n"
        "| 1 | .500 ± .000 | – |\n"
        "| 8 | .600 ± .000 | **.700 ± .000** |\n\n"
        "- mAP: 8 × 0.001 is best; all others differ.\n\n"
    )


def test_csv_has_a_row_for_each_trial(results):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(results[::-1], FIGURES))))
    assert [int(row["trial"]) for row in rows] == list(range(len(results)))
    assert (rows[2]["criterion"], rows[2]["label"], rows[2]["seed"], rows[2]["map"]) == (
        "altermoma",
        "altermoma",
        "0",
        "0.8",
    )
    assert (rows[2]["measured_sparsity_lidar"], rows[2]["seconds_to_score"], rows[2]["beta"]) == ("0.773", "12.34", "")
    assert (rows[9]["status"], rows[9]["reason"], rows[9]["map"]) == ("failed", "the loss is\nnot finite", "")
    assert comparison_csv([], FIGURES).splitlines()[0] == comparison_csv(results, FIGURES).splitlines()[0]


def pixels(picture):
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).reshape(image.height, image.width, 3)


def count(picture, colour):
    return int((pixels(picture) == colour).all(-1).sum())


def test_comparison_picture(results):
    picture = comparison_picture(results, REFERENCE, METRICS[0])
    assert pixels(picture).shape == (500, 750, 3)
    assert count(picture, OUR_COLOUR) > 500  # AlterMOMA's line
    assert count(comparison_picture(Trials().add("snip", [0.5]), REFERENCE, METRICS[0]), OUR_COLOUR) == 0
    results.add("snip", [0.9, 0.9], fine_tune_epochs=1.0)
    assert pixels(comparison_picture(results, REFERENCE, METRICS[0])).shape == (500, 1500, 3)


def test_altermoma_lies_on_top():
    scores = [0.8, 0.81]
    ours, other = Trials().add("altermoma", scores).add("altermoma", scores, sparsity=0.9), Trials()
    for sparsity in (0.85, 0.9):
        other.add("altermoma", scores, sparsity).add("snip", scores, sparsity)
    line = pixels(comparison_picture(other, {}, METRICS[0]))[:, 50:500]
    assert (line == OUR_COLOUR).all(-1).sum() > 0.5 * count(comparison_picture(ours, {}, METRICS[0]), OUR_COLOUR)


@pytest.mark.parametrize(
    ("axis", "values"),
    [("beta", [0.0, 1.0]), ("reactivation_steps", [None, 1, 128]), ("normalisation", ["group", "layer"])],
)
def test_ablation_picture(axis, values):
    trials = Trials().add("unpruned", [0.9, 0.9], sparsity=0.0)
    for position, value in enumerate(values):
        trials.add("altermoma", [0.5 + 0.1 * position, 0.52 + 0.1 * position], **{axis: value})
    picture = ablation_picture(trials, axis, axis, METRICS[0], REFERENCE)
    assert pixels(picture).shape == (500, 750, 3)
    assert count(picture, OUR_COLOUR) > 100


def test_grid_picture_says_which_cells_are_empty():
    grid = Trials()
    for steps, rate, score in ((8, 1e-3, 0.7), (1, 1e-4, 0.5), (8, 1e-4, 0.6)):
        grid.add("altermoma", [score] * 2, reactivation_steps=steps, reactivation_learning_rate=rate)
    image = pixels(
        grid_picture(grid, ("reactivation_steps", "reactivation_learning_rate"), ("B", "learning rate"), METRICS[0])
    )
    assert image.shape == (500, 750, 3)
    top_left, top_right = image[100, 150], image[100, 500]
    assert top_left[2] > top_left[0]  # the lowest value is dark blue
    assert top_right.tolist() == [255, 255, 255]


def test_no_trials_make_empty_pictures_and_tables():
    for picture in (
        comparison_picture([], {}, METRICS[0]),
        ablation_picture([], "beta", "β", METRICS[0]),
        grid_picture([], ("a", "b"), ("a", "b"), METRICS[0]),
    ):
        assert pixels(picture).shape == (500, 750, 3)
    assert comparison_markdown([], {}, METRICS).startswith("Mean over seeds")
