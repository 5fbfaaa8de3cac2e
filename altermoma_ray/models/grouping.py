"""The group of a parameter, for models that keep an encoder of each sensor in a dictionary ``encoders``."""

from __future__ import annotations


def group_by_encoder(parameter_name: str) -> str:
    """The sensor in whose encoder a parameter lies, or ``fusion`` for a parameter elsewhere.

    >>> group_by_encoder("encoders.radar.backbone.weight"), group_by_encoder("decoder.weight")
    ('radar', 'fusion')
    """
    # Everything behind the encoders counts as fusion: it reads all sensors and belongs to none.
    part, _, rest = parameter_name.partition(".")
    return rest.partition(".")[0] if part == "encoders" else "fusion"
