"""AlterMOMA over β, one line for each setting of the synthetic set's redundancy dial, in one picture.

    python -m benchmarks.dial 0=storage/searches/beta-0 0.5=storage/searches/beta-half 1=storage/searches/beta-1

Each folder is that of a comparison (``python -m altermoma_ray.compare nusc --ablate beta``) on the set of one setting
of the dial. A line is the mean over seeds, its band the 95 % interval. A dotted line is the unpruned model
after the same fine-tuning.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from altermoma_ray.cli import run
from altermoma_ray.console import console
from altermoma_ray.errors import UserError
from altermoma_ray.tracking.comparison.statistics import Estimate, estimate
from altermoma_ray.tracking.pictures import to_png

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
MARKERS = "so^Dv"
TITLES = {"map": "mAP", "nds": "NDS", "miou": "mIoU"}


def read(folder: Path, metric: str) -> tuple[dict[float, Estimate], Estimate]:
    """The metric at each β, and of the unpruned model after the same fine-tuning.

    Raises:
        UserError: the folder holds no comparison, or one without the metric.
    """
    file = folder / "comparison" / "trials.csv"
    try:
        rows = [row for row in csv.DictReader(file.read_text().splitlines()) if row["status"] == "finished"]
        whole = [float(row[metric]) for row in rows if row["label"] == "unpruned"]
        pruned = [(float(row["beta"]), float(row[metric])) for row in rows if row["label"] != "unpruned"]
    except (OSError, KeyError) as error:
        raise UserError(f"{file} is no comparison with figures of {metric}: {error}") from error
    betas = sorted({beta for beta, _ in pruned})
    return {beta: estimate([value for b, value in pruned if b == beta]) for beta in betas}, estimate(whole)


def picture(lines: Mapping[str, tuple[dict[float, Estimate], Estimate]], metric: str) -> bytes:
    """The lines of several settings of the dial, as PNG bytes."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="β", ylabel=TITLES.get(metric, metric), title="AlterMOMA over β, by the redundancy of the sensors"
    )
    for place, (name, (points, unpruned)) in enumerate(lines.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        betas, means = list(points), [point.mean for point in points.values()]
        widths = [0 if math.isnan(point.half_width) else point.half_width for point in points.values()]
        axes.plot(betas, means, color=colour, marker=marker, label=f"dial {name}")
        low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
        axes.fill_between(betas, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(unpruned.mean, color=colour, linestyle=":", label=f"dial {name}, unpruned, fine-tuned")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return to_png(figure)


def main() -> None:
    """Draw, and print the means."""
    options = _options()
    lines = {name: read(folder, options.metric) for name, folder in options.comparisons}
    for name, (points, unpruned) in lines.items():
        means = "  ".join(f"{beta:g}: {point.mean:.3f} ± {point.half_width:.3f}" for beta, point in points.items())
        console.print(f"[bold]dial {name}[/]  {means}  unpruned, fine-tuned: {unpruned.mean:.3f}")
    options.picture.write_bytes(picture(lines, options.metric))
    console.print(f"[bold]written[/] {options.picture}")


def _comparison(text: str) -> tuple[str, Path]:
    name, is_pair, folder = text.partition("=")
    if not is_pair:
        raise argparse.ArgumentTypeError(f"give SETTING=FOLDER, as in 0.5=storage/searches/half, but got {text!r}")
    return name, Path(folder)


def _options(line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=_comparison, nargs="+", metavar="SETTING=FOLDER", help="in this order")
    parser.add_argument("--metric", default="map", help="column of the comparison (default: map)")
    parser.add_argument("--picture", type=Path, default=Path("dial.png"), help="file (default: dial.png)")
    return parser.parse_args(line)


if __name__ == "__main__":
    run(main)
