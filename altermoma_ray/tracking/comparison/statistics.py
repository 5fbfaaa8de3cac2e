"""Trials compared: means over seeds, differences between settings, and their intervals.

Notation: a figure's values over n seeds are x_1 … x_n, with mean x̄ and standard deviation s (n − 1 degrees of freedom).
The 95 % interval of the mean is x̄ ± t·s/√n, t being the 0.975 quantile of Student's distribution with n − 1 degrees of
freedom; one seed has no interval (NaN, printed "–"). Two settings are compared seed by seed, x being the differences:
the effect of a seed on both cancels out. Intervals are for one comparison each, without correction for their number.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from altermoma_ray.metrics import Metric
from altermoma_ray.tracking.result import TrialResult

Value = str | float | int | bool | None
"""Of a trial's parameter."""
Trials = list[TrialResult]
Key = TypeVar("Key", bound=Hashable)

CONFIDENCE = 0.95
UNPRUNED = "unpruned"
"""Stands in a criterion's place for trials with the model fine-tuned unpruned."""
SERIES = ("label", "sparsity", "fine_tune_epochs")
"""Parameters with differences between a comparison's settings."""
LEFT_OUT: Mapping[str, Value] = {"distillation": 0.0}
"""Parameters missing in a trial's record where they have this value, unknown to earlier releases."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds; NaN where there are too few."""

    mean: float
    deviation: float
    """Standard deviation over seeds."""
    half_width: float
    """Of the mean's 95 % interval."""
    n: int
    """Seeds."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference; NaN where there are too few pairs.

    >>> Difference(mean=0.02, half_width=0.03, n=3).holds_zero
    True
    >>> Difference(mean=0.02, half_width=0.01, n=3).holds_zero
    False
    """

    mean: float
    half_width: float
    """Of its 95 % interval."""
    n: int
    """Pairs."""

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds 0; also where there is no interval, as nothing is known then."""
        # Turned around for NaN, which compares as False in either direction.
        return not abs(self.mean) > self.half_width


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The trials of one setting."""

    key: Mapping[str, Value]
    """The common parameters."""
    trials: int
    missing: int
    """How many of them have no result: failed, stopped early, or without a finite first metric."""
    figures: Mapping[str, Estimate]
    """By the names of the metrics; the first one is compared."""
    sparsity: Mapping[str, float]
    """Mean share of zero weights: ``total``, and one entry a parameter group."""
    seconds: float
    """Mean time to score; NaN where nothing was scored."""
    to_unpruned: Difference
    """The first metric less the unpruned model's before fine-tuning, which has no seeds."""
    to_fine_tuned: Difference
    """The first metric less the unpruned model's after the same fine-tuning, paired by seed."""

    @property
    def first(self) -> Estimate:
        """The first metric."""
        return next(iter(self.figures.values()))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation and 95 % interval.

    >>> found = estimate([0.5, 0.6, 0.7])
    >>> [round(figure, 3) for figure in (found.mean, found.deviation, found.half_width)]
    [0.6, 0.1, 0.248]
    """
    from scipy import stats

    n = len(values)
    deviation = stdev(values) if n > 1 else math.nan
    # Two-sided: 2.5 % on either side, hence the 0.975 quantile. Three seeds have t = 4.3, far from a normal 1.96.
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) if n > 1 else math.nan
    mean = fmean(values) if n else math.nan
    return Estimate(mean=mean, deviation=deviation, half_width=quantile * deviation / math.sqrt(max(n, 1)), n=n)


def by_seed(results: Sequence[TrialResult], metric: Metric) -> dict[Value, float]:
    """A metric of the finished trials, by seed, where it was measured.

    Raises:
        ValueError: two of them have the same seed, so they are of different settings.
    """
    values: dict[Value, float] = {}
    for result in results:
        if result.status != "finished":
            continue
        seed = result.params.get("seed")
        # Two trials of one seed differ in a parameter that was not grouped by: their mean would mix settings.
        if seed in values:
            raise ValueError(
                f"the trials of one setting must have different seeds, but got seed {seed} again in trial "
                f"{result.number}; group by what tells them apart"
            )
        values[seed] = result.metrics.get(metric.name, math.nan)
    # Last and not in the loop: a trial with a NaN also takes its seed.
    return {seed: value for seed, value in values.items() if math.isfinite(value)}


def has_result(result: TrialResult, metric: Metric) -> bool:
    """Whether the trial ran to its end and has a metric; a stopped one's figures compare with no final ones."""
    return result.status == "finished" and math.isfinite(result.metrics.get(metric.name, math.nan))


def paired_difference(a: Sequence[TrialResult], b: Sequence[TrialResult], metric: Metric) -> Difference:
    """``a`` less ``b``, over the seeds with a result of both.

    Args:
        a: trials of one setting.
        b: trials of the other one.
        metric: to compare.

    Raises:
        ValueError: a seed occurs twice in one of them.
    """
    ours, theirs = by_seed(a, metric), by_seed(b, metric)
    # Paired: a seed's data order and batches act on both sides, so the differences spread less than the figures do.
    found = estimate([value - theirs[seed] for seed, value in ours.items() if seed in theirs])
    return Difference(mean=found.mean, half_width=found.half_width, n=found.n)


def find_best(
    settings: Mapping[Key, Sequence[TrialResult]], metric: Metric
) -> tuple[Key | None, list[tuple[Key, Difference]]]:
    """The setting of the best mean, and its difference to each other setting within the statistical uncertainty.

    (None, []) when none has a result.
    """
    # A setting without any result has no mean and is no candidate.
    means = {key: fmean(values) for key, results in settings.items() if (values := by_seed(results, metric).values())}
    if not means:
        return None, []
    best = max(means, key=lambda key: metric.gain(means[key]))
    differences = {key: paired_difference(settings[best], settings[key], metric) for key in means if key != best}
    # Of one shared seed there is no interval: the setting counts as a rival, as nothing speaks against it.
    return best, [(key, difference) for key, difference in differences.items() if difference.holds_zero]


def grouped(results: Sequence[TrialResult], by: Sequence[str]) -> dict[tuple[Value, ...], Trials]:
    """Trials by the values of parameters, in the order of their numbers."""
    groups: dict[tuple[Value, ...], Trials] = {}
    # Workers finish in any order; by number the tables of one comparison are alike from run to run.
    for result in sorted(results, key=lambda result: result.number):
        groups.setdefault(tuple(parameter(result, name) for name in by), []).append(result)
    return groups


def parameter(result: TrialResult, name: str) -> Value:
    """A trial's parameter, None where there is none; ``label`` is the criterion unless another label is given.

    Parameters of :data:`LEFT_OUT` stand for themselves where they are missing.
    """
    value = result.params.get(name)
    if value is None and name == "label":
        return result.params.get("criterion")
    return LEFT_OUT.get(name) if value is None else value


def only_varying(results: Sequence[TrialResult], axes: Sequence[str], base: Mapping[str, Value]) -> Trials:
    """The trials in agreement with ``base`` in all parameters but ``axes``, and all unpruned ones.

    Args:
        results: all trials of a comparison.
        axes: parameters free to vary.
        base: the published value of every parameter.
    """
    # Unpruned trials have no parameters of a criterion to agree in, and serve every axis as a reference.
    fixed = {name: value for name, value in base.items() if name not in axes}
    return [
        result
        for result in results
        if is_unpruned(result) or all(parameter(result, name) == value for name, value in fixed.items())
    ]


def is_unpruned(result: TrialResult) -> bool:
    """Whether the trial fine-tuned the unpruned model."""
    return result.params.get("criterion") == UNPRUNED


def summarise(
    results: Sequence[TrialResult],
    reference: Mapping[str, float],
    metrics: Sequence[Metric],
    by: Sequence[str] = SERIES,
) -> list[Summary]:
    """One summary for each setting, in the order of the trials.

    Args:
        results: all trials of a comparison.
        reference: metrics of the given unpruned model.
        metrics: to summarise, at least one; the first one is compared.
        by: parameters with differences between settings.

    Raises:
        ValueError: a seed occurs twice in a group; ``by`` lacks a parameter with differences there.
    """
    return [
        _summary(dict(zip(by, key, strict=True)), trials, same_fine_tuning(results, trials), reference, metrics)
        for key, trials in grouped(results, by).items()
    ]


def same_fine_tuning(results: Sequence[TrialResult], trials: Sequence[TrialResult]) -> Trials:
    """The ``results`` of the unpruned model with the same length of fine-tuning as ``trials``."""
    lengths = {trial.params.get("fine_tune_epochs") for trial in trials}
    return [result for result in results if is_unpruned(result) and result.params.get("fine_tune_epochs") in lengths]


def _summary(
    key: Mapping[str, Value],
    trials: Sequence[TrialResult],
    fine_tuned: Sequence[TrialResult],
    reference: Mapping[str, float],
    metrics: Sequence[Metric],
) -> Summary:
    first = metrics[0]
    # Means of sparsity and time are over the same trials as the mean of the first metric.
    ended = [trial for trial in trials if has_result(trial, first)]
    score = estimate(list(by_seed(trials, first).values()))
    seconds = [trial.seconds["criterion"] for trial in ended if "criterion" in trial.seconds]
    groups = dict.fromkeys(group for trial in ended for group in trial.sparsity)
    unpruned = reference.get(first.name, math.nan)
    return Summary(
        key=key,
        trials=len(trials),
        missing=len(trials) - len(ended),
        figures={metric.name: estimate(list(by_seed(ended, metric).values())) for metric in metrics},
        sparsity={group: fmean(trial.sparsity.get(group, math.nan) for trial in ended) for group in groups},
        seconds=fmean(seconds) if seconds else math.nan,
        # The unpruned model is one given checkpoint without spread, so the difference keeps the figure's own interval.
        to_unpruned=Difference(mean=score.mean - unpruned, half_width=score.half_width, n=score.n),
        to_fine_tuned=paired_difference(trials, fine_tuned, first),
    )


def by_value(groups: Mapping[tuple[Value, ...], Trials]) -> list[tuple[tuple[Value, ...], Trials]]:
    """Groups by rising values of their parameters, see :func:`ordered`."""
    return sorted(groups.items(), key=lambda group: [_order(value) for value in group[0]])


def ordered(values: Iterable[Value]) -> list[Value]:
    """Distinct values: None, then numbers rising, then texts in the order of appearance.

    >>> ordered([8, "layer", None, 2, "group", 8])
    [None, 2, 8, 'layer', 'group']
    """
    return sorted(dict.fromkeys(values), key=_order)


def _order(value: Value) -> tuple[bool, float]:
    # Numbers, texts and None cannot be compared; this key puts None before all numbers. Equal keys keep their order,
    # as sorted is stable: texts stay as they came.
    return isinstance(value, str), 0.0 if isinstance(value, str) else -math.inf if value is None else float(value)
