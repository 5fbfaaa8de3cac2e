"""The one error shown to users."""

from __future__ import annotations


# A ValueError: pydantic turns one into a validation error of the field, so validators may raise it too.
class UserError(ValueError):
    """Something the user can mend: one line with the fault, its place and the remedy.

    Commands print the line without a traceback and exit with code 2 (see :mod:`altermoma_ray.cli`).
    """
