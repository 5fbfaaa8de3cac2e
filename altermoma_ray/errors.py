"""The one error that a user sees."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend: one line that says what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 2 (see :mod:`altermoma_ray.cli`).
    """
