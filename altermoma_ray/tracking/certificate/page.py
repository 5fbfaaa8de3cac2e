"""The page of a certificate: one HTML file with its pictures inside and no link to anything outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from altermoma_ray.tracking.certificate import text
from altermoma_ray.tracking.certificate.records import Certificate

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE = Path(__file__).with_name("page.html.jinja")
_QUALITY = 85
"""Of JPEG: photographs as PNG would make a page of many megabytes."""


def page(certificate: Certificate, pictures: Mapping[str, Image]) -> str:
    """The certificate as HTML.

    Args:
        certificate: the figures.
        pictures: of the lost objects, by name; an object without one is listed alone.
    """
    from jinja2 import Environment, StrictUndefined

    # A field missing in the records fails here, where the default would leave a gap in the page.
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters.update(figure=lambda value: f"{value:.3f}", signed=lambda value: f"{value:+.3f}")
    return environment.from_string(TEMPLATE.read_text()).render(
        certificate=certificate,
        text=text,
        sources={name: _source(picture) for name, picture in pictures.items()},
    )


def _source(picture: Image) -> str:
    """A picture as data inside the page: MLflow shows an artifact by itself, where links to files lead nowhere."""
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
