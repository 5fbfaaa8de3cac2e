"""Where progress is printed: stderr, since stdout carries the results of a command alone."""

from __future__ import annotations

from rich.console import Console

# `soft_wrap`: long paths stay on one line, to be copied and searched; `highlight` would colour digits within names.
console = Console(stderr=True, highlight=False, soft_wrap=True)
