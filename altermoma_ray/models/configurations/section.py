"""What all parts of a model's configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen, keyword-only part of a configuration; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
