"""The sentences of a certificate, for the terminal and for the page, and its table in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from altermoma_ray.tracking.certificate.conclusions import ALL
from altermoma_ray.tracking.certificate.records import Certificate, SliceFigures
from altermoma_ray.tracking.certificate.statistics import LEAST_SCENES

_WIDTH = 110
_PARTS = {"all": "all validation samples", "tuning": "the tuning half", "reporting": "the reporting half"}


def verdict(certificate: Certificate) -> str:
    """Whether the champion is no worse, in one sentence.

    Example::

        verdict(certify(measured, margin=0.02))
        # 'Not shown: mAP may be worse by more than 0.02. …'
    """
    title, margin, found = certificate.title, certificate.margin, certificate.difference
    if found is None or certificate.scenes < LEAST_SCENES:
        return f"No verdict: {certificate.scenes} scenes have a {title}, and {LEAST_SCENES} are needed."
    if certificate.no_worse:
        return (
            f"Shown: {title} is no worse by more than {margin:g}. With 95 % confidence its mean over scenes loses at "
            f"most {max(0.0, -found.bound):.3f}."
        )
    if found.high < -margin:
        return (
            f"Worse: {title} is worse by more than {margin:g}. With 95 % confidence its mean over scenes loses at "
            f"least {-found.high:.3f}."
        )
    return (
        f"Not shown: {title} may be worse by more than {margin:g}. With 95 % confidence its mean over scenes loses at "
        f"most {-found.bound:.3f}."
    )


def basis(certificate: Certificate) -> str:
    """Which samples were used, and whether the champion was chosen on them."""
    scenes = certificate.scenes + certificate.left_out
    left_out = f", of which {certificate.left_out} have no {certificate.title}" if certificate.left_out else ""
    used = (
        f"Measured on {_PARTS[certificate.validation_part]}: {certificate.samples} samples, {scenes} scenes{left_out}."
    )
    if certificate.chosen_on_them:
        return (
            f"{used} The search chose its champion on these samples, which flatters the champion; a search with "
            "--validation-part tuning leaves the other half unseen."
        )
    return f"{used} The search has not seen these samples."


def whole(certificate: Certificate) -> str:
    """The metric over all samples together, beside the mean over scenes."""
    figures, found = certificate.whole, certificate.difference
    text = f"{certificate.title} over all samples: {figures.unpruned:.3f} unpruned, {figures.champion:.3f} champion."
    if found is None:
        return text
    better = "" if certificate.direction == "maximize" else " (turned, so that above 0 is better)"
    return (
        f"{text} Difference within a scene{better}, mean over scenes: {found.mean:+.3f}, 95 % interval "
        f"{found.low:+.3f} to {found.high:+.3f}."
    )


def thresholds(certificate: Certificate) -> str:
    """At which confidence objects count as found, and how many false alarms that makes."""
    least, alarms = certificate.thresholds, certificate.false_alarms
    assert least is not None
    assert alarms is not None
    return (
        f"Objects count as found from confidence {least.unpruned:.3f} on (unpruned, where its F1 is greatest) and "
        f"{least.champion:.3f} (champion, the least that raises no more false alarms). False alarms in a scene: "
        f"{alarms.unpruned:.2f} unpruned, {alarms.champion:.2f} champion."
    )


def losses(certificate: Certificate) -> str:
    """How many objects one model finds alone, and which slices are worse beyond chance."""
    worse = [label(one) for one in certificate.slices if one.is_worse]
    found = f"The champion loses {certificate.lost_in_all} objects and finds {certificate.gained_in_all} new ones."
    told = ", ".join(worse) if worse else "none"
    return f"{found} Worse beyond chance ({len(certificate.slices)} slices, Holm's correction, 5 %): {told}."


def label(one: SliceFigures) -> str:
    """The name of a slice.

    Example::

        label(certificate.slices[0])  # 'class pedestrian'
    """
    return "all objects" if one.kind == ALL else f"{one.kind} {one.value}"


def sentences(certificate: Certificate) -> list[str]:
    """All sentences that the certificate's figures allow, the verdict first."""
    told = [verdict(certificate), basis(certificate), whole(certificate)]
    return [*told, thresholds(certificate), losses(certificate)] if certificate.slices else told


def print_certificate(certificate: Certificate) -> None:
    """The sentences, and a table of the slices, on standard output."""
    # Off a terminal rich takes 80 columns and cuts figures off.
    console = Console(highlight=False, width=max(Console().width, _WIDTH))
    for sentence in sentences(certificate):
        console.print(sentence, markup=False)
    if not certificate.slices:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    header = ("", "objects", "scenes", "recall\nunpruned", "recall\nchampion", "difference", "95 %", "p")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for one in certificate.slices:
        table.add_row(
            f"{label(one)}{' *' if one.is_worse else ''}",
            f"{one.objects:,}",
            str(one.scenes),
            f"{one.recall.unpruned:.3f}",
            f"{one.recall.champion:.3f}",
            f"{one.recall.difference:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
            f"{one.p:.3f}",
        )
    console.print(table)
    console.print("* worse beyond chance", markup=False)
