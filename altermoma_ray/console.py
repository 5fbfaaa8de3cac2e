"""Where progress is printed: stderr, so that stdout carries only the output that a command was asked for."""

from __future__ import annotations

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)
