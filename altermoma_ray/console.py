"""Where progress is printed: stderr, since stdout carries the results of a command alone."""

from __future__ import annotations

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)
