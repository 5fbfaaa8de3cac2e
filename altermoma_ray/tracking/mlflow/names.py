"""Names in MLflow: of searches, and of the experiments that hold them."""

from __future__ import annotations

import re

from altermoma_ray.errors import UserError
from altermoma_ray.tracking.mlflow.store import EXPERIMENT_PREFIX


def experiment_name(dataset: str, model: str) -> str:
    """Where all runs of one model on one data set are, and what its registered model is called."""
    return f"{EXPERIMENT_PREFIX}{dataset}-{model}"


def check_name(name: str) -> None:
    """Find out whether a search may have this name: it becomes a folder, a file name and part of a URL.

    Raises:
        UserError: it has odd characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.\-]{0,99}", name):
        raise UserError(f"search name {name!r} must be letters, digits, '.', '_' and '-'; choose another --name")
