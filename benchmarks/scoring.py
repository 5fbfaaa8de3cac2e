"""Scoring against its floor: the bare forward-backward passes that its equations need.

    python -m benchmarks.scoring

One process, one thread, the toy. DeCI and ReRI of one reactivation setting, as the product computes them, against
``loss.backward()`` on the same model, samples and masks, as many times: on whole batches, which is the floor, and on
the product's micro-batches, which tells what part of the difference they are. Data is decoded before; the sides
alternate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from altermoma_ray.cli import positive_int, run
from altermoma_ray.engine.space import SearchSpace
from benchmarks.passes import Passes
from benchmarks.report import Target, options_parser, publish
from benchmarks.toy import toy_plan

TARGET = 1.15


def main() -> None:
    """Measure, print and write ``results/scoring.json``."""
    parser = options_parser(__doc__)
    parser.add_argument("--batches", type=positive_int, default=4, help="scoring batches (default: 4)")
    parser.add_argument("--steps", type=positive_int, default=4, help="B, reactivation steps (default: 4)")
    parser.add_argument("--repeats", type=positive_int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace(
        scoring_batches=options.batches, reactivation_steps=(options.steps,), reactivation_learning_rates=(1e-4,)
    )
    job = toy_plan(options, space=space).trial_job().scoring
    passes = Passes(job)
    whole = Passes(job.model_copy(update={"micro_batch_size": job.batch_size}))
    sides: dict[str, Callable[[], None]] = {
        "scoring": passes.score,
        "bare passes": whole.bare,
        "bare passes on micro-batches": passes.bare,
    }
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    count = passes.count
    ratios = {
        name: [ours / floor for ours, floor in zip(seconds["scoring"], values, strict=True)]
        for name, values in seconds.items()
        if name != "scoring"
    }
    against = {name: statistics.median(values) for name, values in ratios.items()}
    publish(
        options,
        "scoring",
        "Scoring against the bare forward-backward passes that its equations need",
        measured={
            name: {
                "passes": count,
                "seconds (median)": (median := statistics.median(values)),
                "per pass": median / count,
            }
            for name, values in seconds.items()
        },
        targets=[
            Target("scoring / bare passes, median of the pairs", against["bare passes"], most=TARGET),
            Target("scoring / bare passes on micro-batches", against["bare passes on micro-batches"]),
        ],
        details={"seconds": seconds, "ratios": ratios},
    )


if __name__ == "__main__":
    run(main)
