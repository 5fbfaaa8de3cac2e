"""How a comparison's figures, parameters and settings read, in tables and in pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from altermoma_ray.tracking.comparison.statistics import Difference, Estimate, Value

NAMES = {"altermoma": "AlterMOMA", "deci": "DeCI", "reri": "ReRI", "imp": "IMP", "snip": "SNIP"}
NAMES |= {"synflow": "SynFlow", "prospr": "ProsPr"}
"""Of criteria; others go by their own."""


def figure_text(figure: Estimate | Difference) -> str:
    """A mean with the half-width of its interval; "–" stands for a figure unknown for lack of seeds.

    >>> figure_text(Estimate(mean=0.8421, deviation=0.01, half_width=0.0061, n=3))
    '.842 ± .006'
    >>> figure_text(Difference(mean=-0.0234, half_width=math.nan, n=1))
    '−.023 ± –'
    """
    if math.isnan(figure.mean):
        return "–"
    return f"{score_text(figure.mean, signed=isinstance(figure, Difference))} ± {score_text(figure.half_width)}"


def score_text(value: float, *, signed: bool = False) -> str:
    """Three decimals without the leading 0, "–" for NaN.

    >>> [score_text(value) for value in (0.8421, 1.0, math.nan)]
    ['.842', '1.000', '–']
    >>> [score_text(value, signed=True) for value in (0.0123, -0.0123, -0.0001)]
    ['+.012', '−.012', '.000']
    """
    if math.isnan(value):
        return "–"
    # The sign by the rounded digits: −0.0001 would read as −.000.
    digits = f"{abs(value):.3f}"
    sign = "" if float(digits) == 0 else "−" if value < 0 else "+" if signed else ""
    return sign + digits.removeprefix("0")


def decimals(value: float, places: int) -> str:
    """A plain number, "–" for NaN.

    >>> decimals(12.345, 1), decimals(math.nan, 1)
    ('12.3', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{places}f}"


def text(name: str, value: Value) -> str:
    """A parameter's value.

    >>> [text("sparsity", 0.95), text("label", "snip"), text("fine_tune_epochs", 0.2), text("beta", 1.0)]
    ['95 %', 'SNIP', '0.2 epochs', '1']
    """
    if value is None:
        return "–"
    if isinstance(value, (str, bool)):
        # Before the numbers: to Python True is 1, and would print so.
        return NAMES.get(value, value) if isinstance(value, str) else str(value)
    if name == "sparsity":
        return f"{100 * value:g} %"
    if name == "fine_tune_epochs":
        return f"{value:g} epoch{'s' * (value != 1)}"
    return f"{value:g}"


def series_text(names: Sequence[str], key: Sequence[Value], keys: Iterable[Sequence[Value]] = ()) -> str:
    """A setting in words; with the length of fine-tuning only where ``keys``, all settings shown, differ in it.

    >>> series_text(("label", "sparsity", "fine_tune_epochs"), ("snip", 0.9, 0.2))
    'SNIP, 90 %'

    Args:
        names: the parameters of a setting.
        key: their values in this setting.
        keys: their values in all settings of the table or picture.
    """
    shown = [
        text(name, value)
        for position, (name, value) in enumerate(zip(names, key, strict=True))
        # Most comparisons have one length of fine-tuning, told in the heading already.
        if name != "fine_tune_epochs" or len({other[position] for other in keys}) > 1
    ]
    return ", ".join(shown)


def seeds_text(counts: Iterable[int]) -> str:
    """How many seeds there are.

    >>> [seeds_text([3, 3]), seeds_text([1]), seeds_text([3, 2])]
    ['3 seeds', '1 seed', '2–3 seeds']
    """
    # Gone through twice, and perhaps a generator.
    low, high = min(counts := list(counts), default=0), max(counts, default=0)
    return f"{low} seed{'s' * (low != 1)}" if low == high else f"{low}–{high} seeds"
