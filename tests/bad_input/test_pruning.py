"""Options of smaller models: granularities, bounds of widths, limits of costs, and what is measured."""

from __future__ import annotations

import pytest


def prune(bench, *options):
    own = ["--dataroot", str(bench.dataroot), "--model", "bevfusion-mit-toy", "--checkpoint", str(bench.checkpoint)]
    return ["prune", "nusc", *own, "--out", str(bench.folder / "pruned"), *bench.stored(*options)]


def test_bounds_of_no_layer(bench, check):
    check(
        "bounds of an unknown layer",
        prune(bench, "--multiple", "encoders.camera.view_transform.lift_net.7=10"),
        r"no layer whose channels can be removed has a name like 'encoders.camera.view_transform.lift_net.7'; there "
        r"are encoders.camera.view_transform.lift_net.\d, .* and others$",
        left=("checkpoints", "index"),
    )
    assert not (bench.folder / "pruned" / "figures.json").exists()


def test_bounds_of_no_layer_in_a_space(bench, check):
    text = """
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.pruning.channels import Bounds

SPACE = SearchSpace(granularities=("channel",), bounds=Bounds(multiple_of={"lift_net": 10}))
"""
    check(
        "space with bounds of an unknown layer",
        bench.search("--space", bench.file("mine.py", text)),
        r"no layer whose channels can be removed has a name like 'lift_net'; there are encoders.camera.* and others$",
        left=("checkpoints", "index", "mlflow.db"),
    )


def test_distillation_without_fine_tuning(bench, check):
    check(
        "distillation without fine-tuning",
        prune(bench, "--distil", "1"),
        r"--distil 1 teaches while fine-tuning; give --finetune EPOCHS too$",
    )


def test_bounds_of_single_weights(bench, check):
    check(
        "bounds of single weights",
        prune(bench, "--granularity", "weight", "--target", "cuda-bevfusion"),
        r"--least-share, --multiple and --target go with --granularity channel only, but got weight; leave them out$",
    )


def test_bounds_out_of_range(bench, check):
    check(
        "least share above 1",
        prune(bench, "--least-share", "head.*=1.5"),
        r"the least share of channels must be above 0 and at most 1, but got 1.5$",
    )
    check(
        "multiple that is no number",
        prune(bench, "--multiple", "head.*=wide"),
        r"argument --multiple: must be a whole number above 0, but got wide; see --help$",
    )


def test_budget_that_no_mask_meets(bench, check):
    check(
        "budget that no mask meets",
        prune(bench, "--max-macs", "1000"),
        r"no mask meets the budget: the narrowest model has [\d,]+ MACs, but at most 1,000; raise the budget, or lower",
        ("checkpoints", "costs", "index"),
    )
    assert not list(bench.folder.glob("pruned/*"))


@pytest.mark.parametrize(
    ("what", "options", "pattern"),
    [
        (
            "budget of single weights",
            "--granularity weight --max-latency-ms 60",
            r"granularity 'weight' leaves every layer as wide as it was, which saves neither time nor MACs; take",
        ),
        (
            "budget of a criterion with rounds",
            "--criterion imp --max-macs 100000000",
            r"imp prunes in rounds to a sparsity that is set beforehand, so that no limit of latency or MACs can set",
        ),
        (
            "answer without a budget",
            "--dry-run",
            r"--dry-run answers a limit of costs; add --max-latency-ms or --max-m",
        ),
        (
            "budget of nothing",
            "--max-latency-ms 0",
            r"argument --max-latency-ms: must be a number above 0, but got 0; see",
        ),
    ],
)
def test_budget_that_asks_for_nothing(what, options, pattern, bench, check):
    check(what, prune(bench, *options.split()), pattern)


def test_search_of_single_weights_under_a_budget(bench, check):
    check(
        "search of single weights under a budget",
        bench.search("--max-latency-ms", "60"),
        r"granularity 'weight' leaves every layer as wide as it was, which saves neither time nor MACs; take",
    )
    check(
        "sparsity beside a cost that is searched",
        bench.search("--objective", "map,latency", "--sparsity", "0.5"),
        r"with latency as an objective each trial draws its own sparsity; leave --sparsity out$",
    )


def test_benchmark_of_no_pruned_model(bench, check):
    check(
        "benchmark of a data set alone",
        ["benchmark", "nusc", *bench.stored()],
        r"nusc names no pruned model; give a run",
    )
    check(
        "benchmark of a file without its data set",
        ["benchmark", str(bench.checkpoint), *bench.stored()],
        r"does not tell its data set; name the data set, and give the file with --pruned$",
    )
    check(
        "benchmark of a run on other data",
        ["benchmark", "nusc-1", "--dataroot", str(bench.dataroot), *bench.stored()],
        r"--dataroot goes with a data set and --pruned; nusc-1 brings its own$",
    )


def test_unknown_granularity(bench, check):
    check(
        "unknown granularity",
        prune(bench, "--granularity", "block"),
        r"argument --granularity: invalid choice: 'block' \(choose from '?weight'?, '?channel'?, '?n_of_m'?\); see "
        r"--help$",
    )
