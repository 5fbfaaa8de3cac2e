"""The named models: ``configuration("bevfusion-mit")`` is the published one.

A new one is a file of this folder with a ``CONFIGURATION``, and its line in :data:`CONFIGURATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations import (
    bevfusion_mit,
    bevfusion_mit_r101_second,
    bevfusion_mit_r101_second_toy,
    bevfusion_mit_seg,
    bevfusion_mit_seg_toy,
    bevfusion_mit_toy,
    bevfusion_r_toy,
    bevfusion_trio_toy,
)
from altermoma_ray.models.configurations.config import ModelConfig

CONFIGURATIONS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        module.CONFIGURATION.name: module.CONFIGURATION
        for module in (
            bevfusion_mit,
            bevfusion_mit_toy,
            bevfusion_mit_r101_second,
            bevfusion_mit_r101_second_toy,
            bevfusion_mit_seg,
            bevfusion_mit_seg_toy,
            bevfusion_r_toy,
            bevfusion_trio_toy,
        )
    }
)
"""By name."""


def configuration(name: str) -> ModelConfig:
    """The named configuration.

    Raises:
        UserError: there is none of that name.
    """
    if name not in CONFIGURATIONS:
        raise UserError(f"unknown model {name!r}; choose one of: {', '.join(CONFIGURATIONS)}")
    return CONFIGURATIONS[name]
