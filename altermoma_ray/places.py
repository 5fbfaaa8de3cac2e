"""Addresses in stored files: relative to the storage folder for places inside, so the folder can move as a whole.

In memory an address is whole, for the workers. An address is written, and read back, beside a storage:

    text = plan.model_dump_json(context=kept_in(storage))                    # "checkpoints/0f.safetensors"
    plan = SearchPlan.model_validate_json(text, context=read_from(storage))  # "/data/checkpoints/0f.safetensors"

Releases before this one wrote whole addresses; ``was`` names the storage of their time.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer, SerializationInfo, ValidationInfo

from altermoma_ray.addresses import inside
from altermoma_ray.storage import Location


def kept_in(storage: Location) -> dict[str, Any]:
    """The context to write a model with."""
    return {"storage": storage}


def read_from(storage: Location, was: str | None = None) -> dict[str, Any]:
    """The context to read a model with.

    Args:
        storage: its present place.
        was: address of the storage at the time of writing whole addresses, or ``"."``.
    """
    return {"storage": storage, "was": None if was in (None, ".") else was}


_SQLITE = "sqlite:///"
"""Stands before the path of a database in the storage, beside MLflow's own."""


def _read(value: str, info: ValidationInfo) -> str:
    if not info.context:
        return value
    storage, was = info.context["storage"], info.context.get("was")
    prefix = _SQLITE if value.startswith(_SQLITE) else ""
    path = value.removeprefix(prefix)
    # A whole address is either outside of the storage, or of an earlier release and inside the storage of its time.
    if path.startswith("/") or "://" in path:
        relative = inside(path, was) if was else None
    else:
        relative = None if was and prefix else path  # earlier releases left a database's path as it was typed
    return value if relative is None else f"{prefix}{storage.join(relative)}"


def _write(value: str, info: SerializationInfo) -> str:
    if not info.context:
        return value
    prefix = _SQLITE if value.startswith(_SQLITE) else ""
    # Relative where possible: the folder may be moved or mounted elsewhere, and a search in it still resumes.
    relative = inside(value.removeprefix(prefix), str(info.context["storage"]))
    return value if relative is None else f"{prefix}{relative}"


# An alias of `str`, not a class: a place compares, sorts and is hashed as text, and only reading and writing differ.
Place = Annotated[str, AfterValidator(_read), PlainSerializer(_write)]
"""A local path or URI, or the address of a SQLite file."""
