"""The figures of a redundancy report in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from altermoma_ray.tracking.redundancy.records import (
    BEFORE,
    FINE_TUNED,
    INTACT,
    MASKED,
    PRUNED,
    REACTIVATED,
    REDUNDANT_RATIO,
    REDUNDANT_SHARE,
    THIS_MODEL,
    UNPRUNED,
    GroupFigures,
    RedundancyReport,
)

SMALL = 0.01
"""Differences of the first metric below this are called none."""


def indicators_text(report: RedundancyReport) -> list[str]:
    """How DeCI and ReRI compare, group by group."""
    lines = [_group_line(report, group) for group in report.groups]
    lines += [
        f"{group.name}: the two masking passes rank its weights with a correlation of {group.pass_spearman:.2f}: "
        f"{_strength(group.pass_spearman)}."
        for group in report.groups
        if group.pass_spearman is not None
    ]
    return lines


def _group_line(report: RedundancyReport, group: GroupFigures) -> str:
    # A ratio of sums before normalisation: shares add up to 1 on both sides, and would hide which one is greater.
    ratios = [value / group.deci for value in group.reri.values()] if group.deci else []
    raw = f"raw ReRI is {' and '.join(f'{ratio:.2g}' for ratio in ratios)} times DeCI; " if ratios else ""
    alike = "no order to compare" if group.spearman is None else f"Spearman {group.spearman:.2f}: "
    alike += "" if group.spearman is None else _strength(group.spearman)
    redundant = [layer for layer in report.layers_of(group.name) if layer.redundant]
    # Shares of one group add up to 1, so a sum over some layers is their part of the group.
    held = sum(layer.reri_share for layer in redundant)
    count = f"{len(redundant)} of {len(report.layers_of(group.name))} layers"
    where = (
        f"{count} are fusion-redundant and hold {held:.0%} of its ReRI" if redundant else "no layer is fusion-redundant"
    )
    return (
        f"{group.name}: {raw}{alike}. {group.shift:.0%} of ReRI lies in other layers than DeCI; {where}. "
        f"Both keep {group.overlap:.0%} of the weights that either would, by chance {group.overlap_by_chance:.0%}."
    )


def _strength(correlation: float) -> str:
    if correlation >= 0.7:
        return "a weight that ranks high in one nearly always does in the other"
    if correlation >= 0.4:
        return "they rank alike in part"
    if correlation > -0.1:
        return "they say different things"
    return "they rank in opposite ways"


def definition() -> str:
    """The report's meaning of fusion-redundant."""
    return (
        f"A layer is called fusion-redundant when its share of the group's ReRI is at least {REDUNDANT_RATIO:g} times "
        f"its share of the group's DeCI, and at least {REDUNDANT_SHARE:.0%}. Shares add up to 100 % in both, so some "
        "layers always lie above; it is how many and how far that tells."
    )


def removal_text(report: RedundancyReport) -> list[str]:
    """The agreement of the criteria."""
    # The report's own model is no further criterion; with the criterion of its masks the agreement means nothing.
    criteria = [removal for removal in report.removals if removal.criterion != THIS_MODEL]
    pairs = [
        (one.overlap[other.criterion], one.criterion, other.criterion)
        for number, one in enumerate(criteria)
        for other in criteria[number + 1 :]
    ]
    # Two random choices of a share k of the weights have k² in common and 2k − k² in either: Jaccard k / (2 − k).
    kept = 1 - report.sparsity
    lines = []
    if pairs:
        most, least = max(pairs), min(pairs)
        lines.append(
            f"Most alike are {most[1]} and {most[2]}: of the weights that either keeps, both keep {most[0]:.0%}; least "
            f"alike are {least[1]} and {least[2]} with {least[0]:.0%}. By chance it would be {kept / (2 - kept):.0%}."
        )
    for group in [group.name for group in report.groups]:
        lowest = min(criteria, key=lambda removal: removal.sparsity[group])
        highest = max(criteria, key=lambda removal: removal.sparsity[group])
        lines.append(
            f"{group}: {lowest.criterion} removes least ({lowest.sparsity[group]:.1%}), "
            f"{highest.criterion} most ({highest.sparsity[group]:.1%})."
        )
    emptied = {r.criterion: sum(value > 0.995 for value in r.layers.values()) for r in criteria}
    if hit := [f"{criterion} in {count} layers" for criterion, count in emptied.items() if count]:
        lines.append(f"More than 99.5 % is removed by {', '.join(hit)}.")
    return lines


def sensors_text(report: RedundancyReport) -> list[str]:
    """The cost of a lost sensor, the gain by reactivation, and the effect of pruning on both."""
    lines = []
    intact, title, sign = report.first(UNPRUNED, INTACT), report.title, report.sign
    lost = [sensor for sensor in dict.fromkeys(entry.lost for entry in report.sensors) if sensor != INTACT]
    for sensor in lost:
        off, back = report.first(UNPRUNED, sensor), report.first(REACTIVATED, sensor)
        lines.append(
            f"Without {sensor} the unpruned model has {off:.3f} {title} instead of {intact:.3f}. "
            f"{report.reactivation_steps} steps of reactivation at learning rate {report.reactivation_learning_rate:g} "
            # Turned by the metric's sign: a loss is positive where the metric got worse, whichever direction is better.
            f"{_recovery(sign * (intact - off), sign * (back - off))}."
        )
    for state, name in ((PRUNED, "Pruning alone"), (FINE_TUNED, "Pruning and fine-tuning")):
        # The change is told as measured, with its own sign; the sign of the metric matters to judgements only.
        change = report.first(state, INTACT) - intact
        lines.append(f"{name} changes {title} by {change:+.3f}, to {report.first(state, INTACT):.3f}.")
    for sensor in lost:
        # The same question before and after pruning: how much is missing from each model without the sensor.
        before = intact - report.first(UNPRUNED, sensor)
        after = report.first(FINE_TUNED, INTACT) - report.first(FINE_TUNED, sensor)
        use = "the pruned model makes no use of it" if sign * after < SMALL else "the pruned model still uses it"
        lines.append(
            f"{sensor} adds {before:+.3f} {title} to the unpruned model and {after:+.3f} to the fine-tuned one: {use}."
        )
    return lines


def _recovery(loss: float, change: float) -> str:
    # A share of next to nothing would be any number.
    if loss < SMALL:
        return f"change that by {change:+.3f}; the sensor was not needed"
    part = change / loss
    if part < 0.05:
        kind = "the rest of the model has next to nothing in store for a lost sensor"
    elif part < 0.33:
        kind = "the rest of the model makes good a small part"
    else:
        kind = "much of what the sensor says is there twice, or learnt at once"
    return f"change that by {change:+.3f}, {part:.0%} of what was lost: {kind}"


def features_text(report: RedundancyReport, rows: Sequence[str]) -> list[str]:
    """The effect of reactivation and pruning on the features of each row."""
    lines = []
    for row in rows:
        found = {state: report.feature(row, state) for state in (BEFORE, MASKED, REACTIVATED, PRUNED, FINE_TUNED)}
        sharper = found[REACTIVATED].contrast - found[MASKED].contrast
        nearer = found[REACTIVATED].likeness - found[MASKED].likeness
        where = "away from" if nearer < 0 else "towards"
        lines.append(
            f"{row}: reactivation {_contrast(sharper)} and moves the map {where} the one before ({nearer:+.3f}). "
            f"In the pruned model objects stand out {found[PRUNED].contrast:.2f} times, fine-tuned "
            f"{found[FINE_TUNED].contrast:.2f} times, before masking {found[BEFORE].contrast:.2f} times."
        )
    return lines


def _contrast(change: float) -> str:
    # Turned around for NaN, which compares as False: an unknown contrast is not told as a change.
    if not abs(change) >= 0.02:
        return "leaves the objects' contrast as it is"
    return f"makes objects {'clearer' if change > 0 else 'fainter'} ({change:+.2f})"
