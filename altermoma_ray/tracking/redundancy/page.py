"""The page of a redundancy report: one HTML file with its pictures inside and no link to anything outside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from altermoma_ray.tracking.redundancy import pictures, text
from altermoma_ray.tracking.redundancy.records import INTACT, PRUNED, REACTIVATED, RedundancyReport

if TYPE_CHECKING:
    from torch import Tensor

_TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Redundancy of {{ report.model }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
img { max-width: 100%; display: block; margin: 1em 0 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } thead th { vertical-align: bottom; border-bottom: 2px solid #888 }
tr.redundant td:first-child { color: #c00; font-weight: 600 }
.note { color: #555 } li { margin: .3em 0 } code { font-size: .92em }
</style></head><body>
<h1>Redundancy of {{ report.model }}</h1>
<p>Checkpoint <code>{{ report.checkpoint }}</code> on {{ report.dataset }} (<code>{{ report.dataroot }}</code>), pruned
{{ report.sparsity | percent }} by <code>{{ report.criterion }}</code>
{%- if report.fine_tune_steps %}, fine-tuned for {{ report.fine_tune_steps }} steps{% endif %}. DeCI and ReRI over
{{ report.scoring_batches }} batches, reactivation of B = {{ report.reactivation_steps }} steps at learning rate
{{ report.reactivation_learning_rate }}, seed {{ report.seed }}.
{{ report.titles.values() | join(" and ") }} over {{ report.validation_samples }} validation samples. One checkpoint and
one seed: small differences may be noise.</p>
<p class="note">Method: Sun et al., AlterMOMA, NeurIPS 2024. DeCI is what a weight contributes to the intact model's
loss (Eq. 6); ReRI is how much its contribution changes when the other modality is masked and this one reactivates
(Eqs. 10, 26, 34, 35).</p>

<h2>A sensor lost, before and after pruning</h2>
{{ picture("sensors") }}
<table><thead><tr><th>state</th>{% for lost in losses %}{% for title in report.titles.values() -%}
<th>{{ lost | losing if loop.first }}<br>{{ title }}</th>{% endfor %}{% endfor %}
</tr></thead><tbody>{% for state in report.states() %}<tr><td>{{ state }}</td>{% for lost in losses %}
{%- set entry = report.sensor(state, lost) %}{% for name in report.titles -%}
<td>{{ entry.figures[name] | figure if entry else "–" }}</td>{% endfor %}{% endfor %}</tr>{% endfor %}</tbody></table>
{{ sentences(text.sensors_text(report)) }}
<p class="note">“{{ states.reactivated }}” is the model after reactivation with that sensor masked; 
“{{ states.pruned }}” is the mask on the initial weights, before any fine-tuning.</p>

<h2>DeCI and ReRI by modality</h2>
<table><thead><tr><th>group</th><th>weights</th><th>Σ DeCI</th><th>Σ ReRI<br>by masked modality</th><th>Spearman</th>
<th>same weights<br>highest (Jaccard)</th><th>by chance</th><th>ReRI in<br>other layers</th></tr></thead><tbody>
{% for group in report.groups %}<tr><td>{{ group.name }}</td><td>{{ "{:,}".format(group.weights) }}</td>
<td>{{ "%.3g" | format(group.deci) }}</td>
<td>{% for masked, value in group.reri.items() %}{{ masked }} {{ "%.3g" | format(value) }}
{{- ", " if not loop.last }}{% endfor %}</td><td>{{ group.spearman | correlation }}</td>
<td>{{ group.overlap | percent }}</td><td>{{ group.overlap_by_chance | percent }}</td>
<td>{{ group.shift | percent }}</td>
</tr>{% endfor %}</tbody></table>
{{ picture("ranks") }}
{{ sentences(text.indicators_text(report)) }}

<h2>DeCI and ReRI by layer</h2>
<p>{{ text.definition() }}</p>
{{ picture("shares") }}
{% for group in report.groups %}<details><summary>{{ group.name }}: all {{ report.layers_of(group.name) | length }}
layers</summary><table><thead><tr><th>layer</th><th>weights</th><th>DeCI<br>share</th><th>ReRI<br>share</th>
{% for masked in group.reri %}<th>ReRI,<br>{{ masked }} masked</th>{% endfor %}<th>ReRI /<br>DeCI</th>
<th>DeCI<br>per weight</th><th>ReRI<br>per weight</th><th>Spearman</th></tr></thead><tbody>
{% for layer in report.layers_of(group.name) %}<tr{% if layer.redundant %} class="redundant"{% endif %}>
<td>{{ layer.name }}</td><td>{{ "{:,}".format(layer.weights) }}</td><td>{{ layer.deci_share | percent }}</td>
<td>{{ layer.reri_share | percent }}</td>
{% for masked in group.reri %}<td>{{ layer.reri_by_pass[masked] | percent }}</td>{% endfor %}
<td>{{ "%.2f" | format(layer.ratio) }}</td><td>{{ "%.2f" | format(layer.deci_share / layer.weight_share) }}</td>
<td>{{ "%.2f" | format(layer.reri_share / layer.weight_share) }}</td><td>{{ layer.spearman | correlation }}</td></tr>
{% endfor %}</tbody></table></details>{% endfor %}
<p class="note">“Per weight” is the mean over the layer's weights, in units of the mean over its group. Fusion-redundant
layers are red.</p>

<h2>What each criterion removes at {{ report.sparsity | percent }}</h2>
<table><thead><tr><th>criterion</th><th>total</th>{% for group in report.groups %}<th>{{ group.name }}</th>{% endfor %}
</tr></thead><tbody>{% for removal in report.removals %}<tr><td>{{ removal.criterion }}</td>
<td>{{ removal.sparsity.total | percent }}</td>{% for group in report.groups %}
<td>{{ removal.sparsity[group.name] | percent }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{{ sentences(text.removal_text(report)) }}
<p>Of the weights that either of two criteria keeps, how many both keep (Jaccard index); in brackets the same of the
weights removed:</p>
<table><thead><tr><th></th>{% for other in report.removals %}<th>{{ other.criterion }}</th>{% endfor %}</tr></thead>
<tbody>{% for removal in report.removals %}<tr><td>{{ removal.criterion }}</td>{% for other in report.removals %}
{%- set value = removal.overlap[other.criterion] %}<td style="background: rgba(255, 140, 0, {{ value | round(2) }})">
{{- "%.2f" | format(value) }} ({{ "%.2f" | format(removal.overlap_removed[other.criterion]) }})</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
<p class="note">Every criterion with one threshold for all groups; those made of DeCI and ReRI with the reactivation
named above. Criteria that prune in rounds are not compared here.</p>
{{ picture("sparsity") }}

<h2>Bird's-eye view features</h2>
<p>Norm over channels of one keyframe's maps (<code>{{ report.sample }}</code>), one colour scale in each row; outlines
are ground-truth boxes, x to the right and y upwards.</p>
{{ picture("features") }}
<table><thead><tr><th></th>{% for state in states.features %}<th>{{ state }}<br>stand out</th><th>likeness</th>
{%- endfor %}</tr></thead><tbody>{% for row in rows %}<tr><td>{{ row }}</td>{% for state in states.features %}
{%- set entry = report.feature(row, state) %}<td>{{ "%.2f" | format(entry.contrast) }}</td>
<td>{{ entry.likeness | figure }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{{ sentences(text.features_text(report, rows)) }}
<p class="note">Figures over {{ report.feature_samples }} validation samples. “Stand out” is the mean norm of cells in
boxes over that of all others; likeness is the cosine similarity with the same map of the intact model.</p>
</body></html>
"""


def page(report: RedundancyReport, tensors: Mapping[str, Tensor], extent: tuple[float, float, float, float]) -> str:
    """The report as HTML.

    Args:
        report: the figures.
        tensors: ‖F‖ [X, Y] by ``<row>/<state>``, and ``boxes`` [M, 9].
        extent: x0, x1, y0, y1 (m) of the BEV maps.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    rows = list(dict.fromkeys(entry.row for entry in report.features))
    groups = {group.name: [x.name for x in report.layers if x.group == group.name] for group in report.groups}
    drawn = {
        "sensors": pictures.sensors_picture(report),
        "ranks": pictures.ranks_picture(report.groups),
        "shares": pictures.shares_picture(report),
        "sparsity": pictures.sparsity_picture(report.removals, groups),
        "features": pictures.features_picture(
            rows,
            {key: tensor.double().numpy() for key, tensor in tensors.items() if key != "boxes"},
            tensors["boxes"].double().numpy(),
            extent,
        ),
    }

    def picture(name: str) -> Markup:
        return Markup(f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(drawn[name]).decode()}">')

    def sentences(lines: list[str]) -> Markup:
        return Markup(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters.update(
        percent=lambda value: f"{100 * value:.1f} %",
        figure=lambda value: f"{value:.3f}",
        correlation=lambda value: "–" if value is None else f"{value:.2f}",
        losing=lambda lost: "all sensors" if lost == INTACT else f"{lost} lost",
    )
    return environment.from_string(_TEMPLATE).render(
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
