"""Comparisons and ablations as Markdown tables and CSV, with the figures of this room's ``statistics``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from altermoma_ray.metrics import Figures, Metric
from altermoma_ray.tracking.comparison.statistics import (
    SERIES,
    UNPRUNED,
    Difference,
    Estimate,
    Summary,
    by_seed,
    by_value,
    estimate,
    find_best,
    grouped,
    has_result,
    is_unpruned,
    ordered,
    parameter,
    summarise,
)
from altermoma_ray.tracking.comparison.text import (
    NAMES,
    decimals,
    figure_text,
    score_text,
    seeds_text,
    series_text,
    text,
)
from altermoma_ray.tracking.result import TrialResult

PARAMS = ("label", "criterion", "sparsity", "seed", "fine_tune_epochs", "beta", "alpha", "reactivation_steps")
PARAMS += ("reactivation_learning_rate", "reactivation_gradient", "scoring_batches", "normalisation", "norms")
PARAMS += ("learning_rate", "scope")
_NOTE = (
    "Mean over seeds ± half-width of its 95 % interval (Student t); bold: the best mean. Another one "
    "differs from it where the 95 % interval of their difference, paired by seed, leaves out 0; with fewer than two "
    "shared seeds that is not known. No correction is made for the number of comparisons."
)


def comparison_markdown(
    results: Sequence[TrialResult], reference: Mapping[str, float], metrics: Sequence[Metric]
) -> str:
    """A section for each length of fine-tuning: a metric by criterion and sparsity, then all figures for each sparsity.

    Args:
        results: all trials of a comparison, unpruned and failed ones too.
        reference: metrics of the given unpruned model.
        metrics: to tell, at least one; the best trial is best in the first one.

    Raises:
        ValueError: a seed occurs twice in one setting.
    """
    blocks, first = [], metrics[0]
    for (epochs,), trials in by_value(grouped(results, ("fine_tune_epochs",))):
        pruned = [trial for trial in trials if not is_unpruned(trial)]
        unpruned = [trial for trial in trials if is_unpruned(trial)]
        blocks += [f"## Fine-tuning: {text('fine_tune_epochs', epochs)}", _unpruned(trials, reference, metrics)]
        blocks += _means(pruned, ("label",), "criterion", ("sparsity",), first)
        for (sparsity,), chosen in by_value(grouped(pruned, ("sparsity",))):
            # As in the table of all figures, a trial without a final first metric counts for no other metric, either.
            ended = [trial for trial in chosen if has_result(trial, first)]
            summaries = summarise([*unpruned, *chosen], reference, metrics)
            named = {text("label", label): group for (label,), group in grouped(ended, ("label",)).items()}
            blocks += [f"### {text('sparsity', sparsity)}", _details(summaries, metrics)]
            # The verdict on the first metric stands below the table of means already.
            blocks += [_verdict(metric.title, named, metric) for metric in metrics[1:]]
    return _document([*blocks, _NOTE, _missing(results, first)])


def ablation_markdown(
    results: Sequence[TrialResult],
    axis: str,
    label: str,
    metrics: Sequence[Metric],
    reference: Mapping[str, float] | None = None,
) -> str:
    """The first metric by the values of one parameter; a column for each criterion, sparsity and length of fine-tuning.

    Args:
        results: trials with differences only in ``axis`` and in the parameters of the columns, see
            :func:`altermoma_ray.tracking.comparison.statistics.only_varying`; unpruned ones are stated above the table.
        axis: the parameter's name.
        label: name of the axis.
        metrics: see :func:`comparison_markdown`.
        reference: metrics of the given unpruned model, stated too.

    Raises:
        ValueError: a seed occurs twice in a cell.
    """
    pruned = [result for result in results if not is_unpruned(result)]
    series = tuple(name for name in SERIES if name != axis)
    return _document(
        [
            _unpruned(results, reference, metrics),
            *_means(pruned, (axis,), label, series, metrics[0]),
            _NOTE,
            _missing(results, metrics[0]),
        ]
    )


def grid_markdown(
    results: Sequence[TrialResult],
    axes: tuple[str, str],
    labels: tuple[str, str],
    metrics: Sequence[Metric],
    reference: Mapping[str, float] | None = None,
) -> str:
    """The first metric by two parameters, rows and columns; a table for each criterion, sparsity and fine-tuning.

    Args:
        results: see :func:`ablation_markdown`.
        axes: the parameters of the rows and of the columns.
        labels: names of both axes.
        metrics: see :func:`comparison_markdown`.
        reference: metrics of the given unpruned model.

    Raises:
        ValueError: a seed occurs twice in a cell.
    """
    pruned = [result for result in results if not is_unpruned(result)]
    first = metrics[0]
    blocks = [_unpruned(results, reference, metrics)]
    for key, trials in by_value(grouped(pruned, SERIES)):
        cells = grouped(trials, axes)
        # One best cell of the whole grid, not one of each row: both parameters are chosen together.
        best, _ = find_best(cells, first)
        columns = ordered([column for _, column in cells])
        header = [f"{labels[0]} \\ {labels[1]}", *(text(axes[1], column) for column in columns)]
        rows = [
            [
                text(axes[0], row),
                *(_cell(cells.get((row, column), []), (row, column) == best, first) for column in columns),
            ]
            for row in ordered([row for row, _ in cells])
        ]
        named = {" × ".join(map(text, axes, cell)): group for cell, group in cells.items()}
        seeds = seeds_text([len(by_seed(group, first)) for group in cells.values()])
        blocks += [f"{series_text(SERIES, key)} ({seeds}):", _table(header, rows), _verdict(first.title, named, first)]
    return _document([*blocks, _NOTE, _missing(results, first)])


def comparison_csv(results: Sequence[TrialResult], figures: Figures) -> str:
    """A header and a line for each trial; empty for a missing figure, and for a failed trial's metrics."""
    columns: dict[str, Callable[[TrialResult], object]] = {
        "trial": lambda trial: trial.number,
        "status": lambda trial: trial.status,
        "reason": lambda trial: trial.reason,
        # partial and not lambda: a lambda would see the last name of the loop in every column.
        **{name: partial(parameter, name=name) for name in PARAMS},
        **{metric.name: partial(_figure, metric=metric) for metric in figures.columns},
        "measured_sparsity": lambda trial: trial.sparsity.get("total"),
        **{f"measured_sparsity_{group}": partial(_sparsity, group=group) for group in figures.groups},
        "params_left": lambda trial: trial.params_left,
        "params_total": lambda trial: trial.params_total,
        "seconds_to_score": lambda trial: trial.seconds.get("criterion"),
        "seconds": lambda trial: trial.ended - trial.started,
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(trial) for cell in columns.values()] for trial in sorted(results, key=lambda t: t.number))
    return stream.getvalue()


def _figure(trial: TrialResult, metric: Metric) -> float | None:
    # A failed trial may have measured something on the way. A stopped one keeps its last figures, beside its status.
    return None if trial.status == "failed" else trial.metrics.get(metric.name)


def _sparsity(trial: TrialResult, group: str) -> float | None:
    return trial.sparsity.get(group)


def _means(
    pruned: Sequence[TrialResult], axis: tuple[str], label: str, series: tuple[str, ...], metric: Metric
) -> list[str]:
    """A table of a metric, ``axis`` down and ``series`` across, and the best value of each column."""
    columns = dict(by_value(grouped(pruned, series)))
    titles = {key: series_text(series, key, columns) for key in columns}
    cells = {key: grouped(trials, axis) for key, trials in columns.items()}
    best = {key: find_best(column, metric)[0] for key, column in cells.items()}
    # A criterion stands for itself; a bare "8" in a verdict needs the name of its parameter.
    prefix = "" if axis == ("label",) else f"{label} "
    rows = []
    # Rows by all trials and not by one column: a value may be missing in one of the columns.
    for row, _ in by_value(grouped(pruned, axis)):
        shown = [_cell(column.get(row, []), best[key] == row, metric) for key, column in cells.items()]
        counts = [len(by_seed(column[row], metric)) for column in cells.values() if row in column]
        rows.append([text(axis[0], row[0]), *shown, seeds_text(counts).split()[0]])
    verdicts = [
        _verdict(titles[key], {prefix + text(axis[0], row): trials for (row,), trials in column.items()}, metric)
        for key, column in cells.items()
    ]
    return [_table([label, *titles.values(), "seeds"], rows), "\n".join(filter(None, verdicts))] if rows else []


def _details(summaries: Sequence[Summary], metrics: Sequence[Metric]) -> str:
    # The fine-tuned unpruned model has a line above the tables; here its trials only serve as the other side of pairs.
    shown = [summary for summary in summaries if summary.key["label"] != UNPRUNED]
    groups = [name for name in dict.fromkeys(name for summary in shown for name in summary.sparsity) if name != "total"]
    figures: list[Sequence[Estimate | Difference]] = [
        *([summary.figures[metric.name] for summary in shown] for metric in metrics),
        [summary.to_unpruned for summary in shown],
        [summary.to_fine_tuned for summary in shown],
    ]
    # Differences of the first metric are better in the direction of the first metric.
    directions = [*metrics, metrics[0], metrics[0]]
    best = [
        max((value.mean for value in column if value.n), default=math.nan, key=metric.gain)
        for column, metric in zip(figures, directions, strict=True)
    ]
    rows = []
    for row, summary in enumerate(shown):
        values = [column[row] for column in figures]
        # The mean before rounding: of two equal texts only the better one is bold. NaN equals nothing, and stays plain.
        cells = [_bold(figure_text(value), value.mean == top) for value, top in zip(values, best, strict=True)]
        # A failed trial of the unpruned model takes the partner from a pair: fewer differences than figures.
        if summary.to_fine_tuned.n != summary.first.n:
            cells[-1] += f" ({summary.to_fine_tuned.n} pairs)"
        shares = " / ".join(decimals(100 * summary.sparsity.get(group, math.nan), 1) for group in groups)
        seeds = str(summary.first.n) + (f" of {summary.trials}" if summary.missing else "")
        rows.append([text("label", summary.key["label"]), *cells, shares or "–", decimals(summary.seconds, 1), seeds])
    titles, first = [metric.title for metric in metrics], metrics[0].title
    header = ["criterion", *titles, f"Δ {first} to unpruned", f"Δ {first} to unpruned + fine-tuning"]
    sparsity = " / ".join(NAMES.get(group, group) for group in groups)
    return _table([*header, f"sparsity {sparsity} (%)".replace("  ", " "), "seconds to score", "seeds"], rows)


def _unpruned(results: Sequence[TrialResult], reference: Mapping[str, float] | None, metrics: Sequence[Metric]) -> str:
    """The unpruned model's metrics, as given and after the same fine-tuning."""
    lines = []
    if reference is not None:
        given = [f"{metric.title} {score_text(reference.get(metric.name, math.nan))}" for metric in metrics]
        lines.append(f"Unpruned: {', '.join(given)}.")
    for (epochs,), group in by_value(grouped(list(filter(is_unpruned, results)), ("fine_tune_epochs",))):
        values = {metric.title: list(by_seed(group, metric).values()) for metric in metrics}
        given = [f"{name} {figure_text(estimate(value))}" for name, value in values.items()]
        seeds = seeds_text([len(values[metrics[0].title])])
        lines.append(f"Unpruned + {text('fine_tune_epochs', epochs)} of fine-tuning: {', '.join(given)} ({seeds}).")
    return "\n".join(lines)


def _verdict(where: str, settings: Mapping[str, Sequence[TrialResult]], metric: Metric) -> str:
    """Which setting is best, and which ones may be as good."""
    best, rivals = find_best(settings, metric)
    # Of one setting with a result the best says nothing.
    if sum(bool(by_seed(trials, metric)) for trials in settings.values()) < 2:
        return ""
    alike = "; ".join(f"{name} ({figure_text(difference)})" for name, difference in rivals)
    others = f"not distinguishable from it: {alike}." if alike else "all others differ."
    return f"- {where}: {best} is best; {others}"


def _missing(results: Sequence[TrialResult], metric: Metric) -> str:
    """Each trial without a result, and the reason."""
    lines = []
    for trial in results:
        if not has_result(trial, metric):
            names = [text(name, parameter(trial, name)) for name in ("label", "sparsity")]
            score = trial.metrics.get(metric.name) if trial.status == "finished" else None
            # A reason may hold line breaks, which would end the item of the list.
            reason = " ".join((trial.reason or "").split()) or (
                f"no final {metric.title}" if score is None else f"its {metric.title} is {score}"
            )
            names.append(f"seed {trial.params.get('seed')}")
            lines.append(f"- trial {trial.number} ({', '.join(names)}) {trial.status}: {reason}")
    return "\n".join(["Trials without a result, left out of every mean:", "", *lines] if lines else [])


def _cell(trials: Sequence[TrialResult], best: bool, metric: Metric) -> str:
    values = list(by_seed(trials, metric).values())
    lost = f" ({len(values)} of {len(trials)})" if len(values) < len(trials) else ""
    return _bold(figure_text(estimate(values)), best) + lost


def _bold(cell: str, best: bool) -> str:
    return f"**{cell}**" if best else cell


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _document(blocks: Iterable[str]) -> str:
    # Parts without text are left out; an empty line ends a table in Markdown.
    return "\n\n".join(filter(None, blocks)) + "\n"
