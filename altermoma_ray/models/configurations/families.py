"""The families of models, BEVFusion and AVOD-FPN, whose configurations have different fields."""

from __future__ import annotations

import json
from collections.abc import Collection

from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.avod_fpn import AVOD_CONFIGURATIONS
from altermoma_ray.models.configurations.named import CONFIGURATIONS

FAMILIES = (CONFIGURATIONS, AVOD_CONFIGURATIONS)


def check_family(configuration: str, family: Collection[str], origin: str) -> None:
    """Refuse the configuration of a named model of another family, whose fields would only seem wrong.

    Args:
        configuration: JSON of a checkpoint's header.
        family: names of the models that may be meant, :data:`.named.CONFIGURATIONS` for example.
        origin: where the configuration comes from, for the message.

    Raises:
        UserError: the configuration names a model of another family.
    """
    try:
        fields = json.loads(configuration)
    except ValueError:  # whoever reads the configuration itself says more of what is wrong with it
        return
    name = fields.get("name") if isinstance(fields, dict) else None
    if isinstance(name, str) and name not in family and any(name in names for names in FAMILIES):
        raise UserError(f"{origin} is of model {name!r}; choose that model, or give another checkpoint")
