"""The page of a redundancy report: one HTML file with its pictures inside and no link to anything outside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from altermoma_ray.tracking.redundancy import pictures, text
from altermoma_ray.tracking.redundancy.records import INTACT, OCCUPIED, PRUNED, REACTIVATED, RedundancyReport

if TYPE_CHECKING:
    from torch import Tensor

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def page(report: RedundancyReport, tensors: Mapping[str, Tensor], extent: tuple[float, float, float, float]) -> str:
    """The report as HTML.

    Args:
        report: the figures.
        tensors: ‖F‖ [X, Y] by ``<row>/<state>``, and ``occupied`` [X, Y], its cells under an object.
        extent: x0, x1, y0, y1 (m) of the BEV maps.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    # Each row comes once for each state; dict.fromkeys keeps one, in the order of measurement.
    rows = list(dict.fromkeys(entry.row for entry in report.features))
    groups = {group.name: [x.name for x in report.layers if x.group == group.name] for group in report.groups}
    drawn = {
        "sensors": pictures.sensors_picture(report),
        "ranks": pictures.ranks_picture(report.groups),
        "shares": pictures.shares_picture(report),
        "sparsity": pictures.sparsity_picture(report.removals, groups),
        "features": pictures.features_picture(
            rows,
            {key: tensor.double().numpy() for key, tensor in tensors.items() if key != OCCUPIED},
            tensors[OCCUPIED].numpy(),
            extent,
        ),
    }

    def picture(name: str) -> Markup:
        # As data inside the page: MLflow shows an artifact by itself, where links to other files lead nowhere.
        return Markup(f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(drawn[name]).decode()}">')

    def sentences(lines: list[str]) -> Markup:
        # Escaped one by one: Markup passes unescaped, and names of sensors and criteria come from outside.
        return Markup(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")

    # A field missing in the records fails here, where the default would leave a gap in the page.
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters.update(
        percent=lambda value: f"{100 * value:.1f} %",
        figure=lambda value: f"{value:.3f}",
        correlation=lambda value: "–" if value is None else f"{value:.2f}",
        losing=lambda lost: "all sensors" if lost == INTACT else f"{lost} lost",
    )
    return environment.from_string(TEMPLATE.read_text()).render(
        report=report,
        text=text,
        rows=rows,
        losses=list(dict.fromkeys(entry.lost for entry in report.sensors)),
        states={
            "reactivated": REACTIVATED,
            "pruned": PRUNED,
            "features": list(dict.fromkeys(entry.state for entry in report.features)),
        },
        picture=picture,
        sentences=sentences,
    )
