"""Names in MLflow: of searches and their experiments."""

from __future__ import annotations

import re

from altermoma_ray.errors import UserError
from altermoma_ray.tracking.mlflow.store import EXPERIMENT_PREFIX


def experiment_name(dataset: str, model: str) -> str:
    """Name of the experiment of one model on one data set, and of its registered model.

    >>> experiment_name("nusc", "bevfusion")
    'altermoma-nusc-bevfusion'
    """
    return f"{EXPERIMENT_PREFIX}{dataset}-{model}"


def check_name(name: str) -> None:
    """Check a search's name, which becomes a folder, a file name and part of a URL.

    Raises:
        UserError: the name has odd characters.
    """
    # A '.' in front would hide the folder, a '-' would turn the name into an option of the command line.
    if not re.fullmatch(r"[A-Za-z0-9][\w.\-]{0,99}", name):
        raise UserError(f"search name {name!r} must be letters, digits, '.', '_' and '-'; choose another --name")
