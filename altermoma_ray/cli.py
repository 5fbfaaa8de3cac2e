"""What the commands share: one-line errors with exit code 2, and quiet, readable progress."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from rich.console import Console

from altermoma_ray.errors import UserError
from altermoma_ray.storage import DEFAULT_STORAGE

console = Console(stderr=True, highlight=False)
"""Progress goes to stderr, so that stdout carries only what a command was asked for."""


def run(main: Callable[[], None]) -> None:
    """Run a command's ``main``; a user's mistake becomes one line and exit code 2, an interrupt exit code 130."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which data set a command works on and where it keeps what it makes."""
    parser.add_argument("dataset", nargs="?", default="nusc", help="data set (default: nusc)")
    parser.add_argument("--dataroot", help="nuScenes folder or URI (default: a synthetic nuScenes, made on first use)")
    parser.add_argument("--version", help="nuScenes version, such as v1.0-mini (default: v1.0-trainval)")
    add_storage_option(parser)


def add_storage_option(parser: argparse.ArgumentParser) -> None:
    """The option that says where results are kept."""
    parser.add_argument(
        "--storage", default=DEFAULT_STORAGE, help=f"folder or URI for all results (default: {DEFAULT_STORAGE})"
    )


def add_worker_options(parser: argparse.ArgumentParser, *, workers_help: str) -> None:
    """Options that say how a job is spread over the cluster."""
    parser.add_argument("--workers", type=positive_int, help=workers_help)
    parser.add_argument("--gpus-per-worker", type=float, default=0.0, help="GPUs of each worker (default: 0)")


def positive_int(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {value}")
    return value
