"""The score histogram of a trial as a page: text from a template, which costs the search a thousandth of a picture.

The page holds its drawing as SVG, and needs neither a script nor anything from outside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

    from altermoma_ray.tracking.result import Histogram

_WIDTH, _HEIGHT = 320, 200
"""Of a panel's axes; the template's figures fit these."""
_LABELS = 5
"""Number of scores below a panel."""


def histogram_page(title: str, histograms: Mapping[str, Histogram]) -> str:
    """How many weights have which score, pruned and kept, as HTML.

    >>> from altermoma_ray.tracking.result import Histogram
    >>> page = histogram_page("trial 3", {"camera": Histogram(edges=[0, 1, 9], kept=[0, 10], pruned=[1000, 1])})
    >>> "<figcaption>camera</figcaption>" in page
    True

    Args:
        title: of the page.
        histograms: by parameter group; each gets a panel.
    """
    return _template().render(title=title, panels=[_panel(group, found) for group, found in histograms.items()])


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    # Autoescape: names of groups come from a user's model.
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(Path(__file__).with_name("histogram.html.jinja").read_text())


def _panel(group: str, histogram: Histogram) -> dict[str, Any]:
    """The template's figures of one group."""
    most = max(1, *histogram.kept, *histogram.pruned)
    powers = [0, *(10**power for power in range(1 + int(math.log10(most))))]
    bins = len(histogram.kept)
    labelled = sorted({round(step * bins / (_LABELS - 1)) for step in range(_LABELS)})
    return {
        "group": group,
        "counts": [(_height(count, most), f"{count:,}") for count in powers],
        "pruned": _stairs(histogram.pruned, most),
        "kept": _stairs(histogram.kept, most),
        "scores": [(round(_WIDTH * edge / bins, 1), f"{histogram.edges[edge]:.2g}") for edge in labelled],
    }


def _stairs(counts: Sequence[int], most: int) -> str:
    """The outline of one series as an SVG path."""
    width = _WIDTH / len(counts)
    steps = "".join(f"V{_height(count, most)}H{width * (bin + 1):.1f}" for bin, count in enumerate(counts))
    return f"M0 {_HEIGHT}{steps}V{_HEIGHT}Z"


def _height(count: int, most: int) -> float:
    """Place of a count on the vertical axis, from the top: none at the bottom, then 1, 10, 100 and so on."""

    # Counts from none to millions: logarithmic from 1, and a step below for bins without a weight.
    def steps(number: int) -> float:
        return 1 + math.log10(number) if number else 0.0

    return round(_HEIGHT * (1 - steps(count) / steps(most)), 1)
