"""Policies of early stopping, compared by replaying a table of whole trials (``benchmarks.trial_table``).

    python -m benchmarks.replay benchmarks/results/trials-bevfusion-mit-toy-0.85.parquet [...]

A replay runs a search of all trials of the table in a random order, as the product proposes segments: a promotion goes
before a new trial, and a segment sees the results of those ``--lookahead`` places before it. No model is trained; the
findings of a segment stand in the table. Every search pays for the paper's own configuration besides, which runs to
its end whatever comes, and finds nothing by it.

Told for each policy, median and 90th percentile over ``--orders`` orders: the share of the full search's fine-tuning
steps and of its evaluated samples when a finished trial first comes within ``--tolerance`` of the full search's best,
the shares of the whole search, and the regret: what the best is short of when a fifth of both is spent, and in the end.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy import stats

from altermoma_ray.cli import positive_int, run
from altermoma_ray.console import console
from altermoma_ray.engine.search.stopping import Standing
from benchmarks.policies import Correction, Paired, Policy, Rung, Trial, read_table
from benchmarks.report import RESULTS


@dataclass(frozen=True)
class Spent:
    """What a search has spent when a trial ends, and the best by then."""

    steps: float
    samples: int
    best: float


def replay(policy: Policy, trials: Sequence[Trial], order: np.ndarray, lookahead: int = 1) -> list[Spent]:
    """Run a search over a table.

    Args:
        policy: stops trials.
        trials: of the table.
        order: places of ``trials``, in the order in which the search begins them.
        lookahead: see :class:`altermoma_ray.engine.search.proposals.Proposals`.
    """
    length, size = trials[0].steps, trials[0].size
    stopping = policy.stopping(len(order))
    scenes = np.random.default_rng(int(order[0])).permutation(trials[0].scene_count)
    segments: list[tuple[int, int | None]] = []
    furthest: dict[int, int | None] = {}
    spent, samples = [Spent(0, 0, -math.inf)], size
    steps: float = length + policy.shared_steps
    # The paper's own configuration has been paid for by now.
    best: Trial | None = None

    def visible_standings(visible: int) -> list[Standing]:
        seen = dict(segments[:visible])
        ended = [trials[order[number]] for number, until in seen.items() if until is None]
        return [
            Standing(
                number=number,
                gains=[
                    (policy.gain(trials[order[number]], rung, ended),)
                    for rung in policy.rungs[: len(policy.rungs) if until is None else until + 1]
                ],
                waits_at=furthest[number],
            )
            for number, until in seen.items()
        ]

    begun = 0
    while True:
        visible = max(0, len(segments) - lookahead + 1)
        number = stopping.promoted(visible_standings(visible))
        if number is None and begun == len(order):
            number = stopping.promoted(visible_standings(len(segments)), at_least=1)
            if number is None:
                return spent
        if number is None:
            number, begun = begun, begun + 1
        trial, rung = trials[order[number]], furthest.get(number, -1)
        assert rung is not None
        done = policy.rungs[rung].progress if rung >= 0 else 0
        until = rung + 1 if rung + 1 < len(policy.rungs) else None
        segments.append((number, until))
        furthest[number] = until
        if until is not None:
            steps += policy.rungs[until].price(done)
            samples += policy.rungs[until].samples
            continue
        steps += length - done
        read = size if policy.paired is None else policy.paired.samples_read(trial, best, scenes)
        samples += read
        if read == size and (best is None or trial.final > best.final):
            best = trial
        spent.append(Spent(steps, samples, -math.inf if best is None else best.final))


def judged(policy: Policy, trials: Sequence[Trial], orders: int, lookahead: int, tolerance: float) -> dict[str, object]:
    """The figures of one policy over many orders."""
    length, size, count = trials[0].steps, trials[0].size, len(trials)
    # The full search runs the paper's own configuration as well.
    all_steps, all_samples = (count + 1) * length, (count + 1) * size
    top = max(trial.final for trial in trials)
    reached, whole, regrets, ends = [], [], [], []
    for number in range(orders):
        spent = replay(policy, trials, np.random.default_rng(number).permutation(count), lookahead)
        shares = [(one.steps / all_steps, one.samples / all_samples, one.best) for one in spent]
        near = [(steps, samples) for steps, samples, best in shares if best >= top - tolerance]
        reached.append(near[0] if near else (math.inf, math.inf))
        whole.append(shares[-1][:2])
        within = [best for steps, samples, best in shares if max(steps, samples) <= 0.2]
        regrets.append(top - max(0.0, *within))
        ends.append(top - shares[-1][2])

    def both(values: Sequence[float] | np.ndarray) -> list[float | None]:
        """Median and 90th percentile; None where so many orders come to nothing."""
        quantiles = [float(np.quantile(values, share, method="higher")) for share in (0.5, 0.9)]
        return [round(value, 4) if math.isfinite(value) else None for value in quantiles]

    near_steps, near_samples = np.array(reached).T
    whole_steps, whole_samples = np.array(whole).T
    return {
        "steps to near best": both(near_steps),
        "samples to near best": both(near_samples),
        "orders that come near": float(np.mean(np.isfinite(near_steps))),
        "steps in all": both(whole_steps),
        "samples in all": both(whole_samples),
        "regret at a fifth": both(regrets),
        "regret in the end": both(ends),
    }


def policies(length: int, size: int) -> list[Policy]:
    """The policies to tell apart, for trials of ``length`` steps evaluated on ``size`` samples."""

    def at(step: int, samples: int, kind: str = "own") -> Rung:
        return Rung(max(step and 1, round(step * length / 60)), min(samples, size), kind)

    quarter, end_like, sieve = at(15, 40), at(15, 40, "renewed"), at(0, 10, "renewed")
    early = at(4, 40, "renewed")
    return [
        Policy("to the end"),
        Policy("halving at 15 (the default before)", (quarter,)),
        Policy("halving at 8", (at(8, 40),)),
        Policy("halving at 4", (at(4, 40),)),
        Policy("halving at 8, η = 4", (at(8, 40),), 4),
        Policy("halving at 4 and 15, η = 3", (at(4, 20), quarter)),
        Policy("halving at 4 and 15, η = 4", (at(4, 20), quarter), 4),
        Policy("halving at 8 and 30, η = 3", (at(8, 20), at(30, 40))),
        Policy("halving at 8 and 30, η = 4", (at(8, 20), at(30, 40)), 4),
        Policy("halving at 2, 8 and 30, η = 2.5", (at(2, 10), at(8, 20), at(30, 40)), 2.5),
        Policy("halving at 2, 8 and 30, η = 3", (at(2, 10), at(8, 20), at(30, 40)), 3),
        Policy("patient, halving at 15, η = 4", (quarter,), 4, patience=1.0),
        Policy("patient, halving at 4 and 15, η = 3", (at(4, 20), quarter), 3, patience=1.0),
        Policy("patient, halving at 4 and 15, η = 4", (at(4, 20), quarter), 4, patience=1.0),
        Policy("patient, halving at 8 and 30, η = 4", (at(8, 20), at(30, 40)), 4, patience=1.0),
        Policy("halving at 15, corrected", (quarter,), correction=Correction()),
        Policy("halving at 4 and 15, η = 4, corrected", (at(4, 20), quarter), 4, Correction()),
        Policy("halving at 8 and 30, η = 4, corrected", (at(8, 20), at(30, 40)), 4, Correction()),
        Policy("halving at 15, paired scenes", (quarter,), paired=Paired()),
        Policy("halving at 4 and 15, η = 4, paired scenes", (at(4, 20), quarter), 4, paired=Paired()),
        Policy("halving at 15, new statistics", (end_like,)),
        Policy("halving at 15, new statistics, η = 6", (end_like,), 6),
        Policy("halving at 15, new statistics, η = 12", (end_like,), 12),
        Policy("sieve, halving at 15", (sieve, quarter)),
        Policy("sieve, halving at 15, new statistics", (sieve, end_like)),
        Policy("sieve, halving at 15, new statistics, η = 4", (sieve, end_like), 4),
        Policy("sieve, halving at 15, new statistics, η = 5", (sieve, end_like), 5),
        Policy("half patient, sieve, halving at 15, new statistics, η = 4", (sieve, end_like), 4, patience=0.5),
        Policy("3/4 patient, sieve, halving at 15, new statistics, η = 4", (sieve, end_like), 4, patience=0.75),
        Policy("3/4 patient, sieve, halving at 15, new statistics, η = 3", (sieve, end_like), 3, patience=0.75),
        Policy("sieve, halving at 8 and 15, new statistics, η = 2.5", (sieve, at(8, 40, "renewed"), end_like), 2.5),
        Policy("sieve, halving at 15, new statistics, η = 3.5", (sieve, end_like), 3.5),
        Policy("sieve, halving at 4 and 15, new statistics, η = 2", (sieve, early, end_like), 2),
        Policy("sieve, halving at 4 and 15, new statistics, η = 2.5", (sieve, early, end_like), 2.5),
        Policy("patient, sieve, halving at 15, new statistics", (sieve, end_like), patience=1.0),
        Policy("patient, sieve, halving at 15, new statistics, η = 4", (sieve, end_like), 4, patience=1.0),
        Policy("patient, sieve, halving at 15, new statistics, η = 5", (sieve, end_like), 5, patience=1.0),
        Policy("halving at 4, new statistics", (at(4, 40, "renewed"),)),
        Policy("halving at 4, new statistics, η = 6", (at(4, 40, "renewed"),), 6),
        Policy("halving at 8, new statistics, η = 4", (at(8, 40, "renewed"),), 4),
        Policy("halving at 8, new statistics, η = 6", (at(8, 40, "renewed"),), 6),
        Policy("halving at 4 and 15, new statistics", (at(4, 40, "renewed"), end_like)),
        Policy("halving at 4 and 15, new statistics, η = 4", (at(4, 40, "renewed"), end_like), 4),
        Policy("patient, halving at 4, new statistics, η = 8", (at(4, 40, "renewed"),), 8, patience=1.0),
        Policy("patient, halving at 8, new statistics, η = 8", (at(8, 40, "renewed"),), 8, patience=1.0),
        Policy("sprint of 4", (at(4, 40, "sprint"),)),
        Policy("sprint of 4, η = 6", (at(4, 40, "sprint"),), 6),
        Policy("sprint of 4, halving at 15", (at(4, 40, "sprint"), quarter)),
        Policy("sprint of 4, halving at 15, η = 4", (at(4, 40, "sprint"), quarter), 4),
        Policy("patient, sprint of 4, η = 8", (at(4, 40, "sprint"),), 8, patience=1.0),
        Policy("sieve by shared weights, halving at 15", (at(0, 40, "shared"), quarter), shared_steps=240),
    ]


def agreement(trials: Sequence[Trial]) -> list[tuple[str, float, float]]:
    """Spearman's correlation of each evaluation with the end, of all trials and of the better half."""
    finals = np.array([trial.final for trial in trials])
    better = finals >= np.median(finals)
    rows = []
    names = {
        "own": "",
        "renewed": ", new statistics",
        "shared": " of its own, weights shared by all",
        "sprint": " of a sprint",
    }
    for step, kind in sorted(trials[0].subsets):
        values = np.array([trial.at(Rung(step, trial.size, kind)) for trial in trials])
        name = f"{step} steps{names[kind]}"
        rows.append((name, _spearman(values, finals), _spearman(values[better], finals[better])))
    return rows


def _spearman(values: np.ndarray, finals: np.ndarray) -> float:
    return round(float(stats.spearmanr(values, finals).statistic), 3)


def main() -> None:
    """Replay, print, and write ``results/replay.json``."""
    options = _options()
    written = {}
    for file in options.tables:
        trials = read_table(file)
        best = sorted((trial.final for trial in trials), reverse=True)[:5]
        console.print(f"[bold]{file.stem}[/]: {len(trials)} trials, the best {', '.join(f'{v:.4f}' for v in best)}")
        shown = Table("evaluation after", "Spearman with the end", "of the better half")
        ranks = agreement(trials)
        for name, whole, half in ranks:
            shown.add_row(name, f"{whole:.2f}", f"{half:.2f}")
        console.print(shown)
        # A table may lack the weights shared by all trials: policies that ask for them are left out.
        known = trials[0].subsets.keys()
        offered = policies(trials[0].steps, trials[0].size)
        asked = [policy for policy in offered if {(rung.step, rung.kind) for rung in policy.rungs} <= known]
        figures = {p.name: judged(p, trials, options.orders, options.lookahead, options.tolerance) for p in asked}
        console.print(_shown(figures))
        written[file.stem] = {"spearman": ranks, "policies": figures}
    options.results.mkdir(exist_ok=True)
    (options.results / "replay.json").write_text(json.dumps(written, indent=2) + "\n")


def _shown(figures: dict[str, dict[str, object]]) -> Table:
    names = list(next(iter(figures.values())))
    shown = Table("policy", *names, box=None, width=190)
    for policy, own in figures.items():
        cells = [
            " / ".join("never" if x is None else f"{x:.3f}" for x in value)
            if isinstance(value, list)
            else f"{value:.2f}"
            for value in own.values()
        ]
        shown.add_row(policy, *cells)
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="files of benchmarks.trial_table")
    parser.add_argument("--orders", type=positive_int, default=200, help="of each table's trials (default: 200)")
    parser.add_argument("--lookahead", type=positive_int, default=4, help="as on two cores (default: 4)")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of the best (default: 0.005)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
