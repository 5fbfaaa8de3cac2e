"""What every benchmark shares: its options, the toy it runs on, and how its figures are printed and kept."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from altermoma_ray.cli import add_storage_option
from altermoma_ray.engine.dataset import data_source
from altermoma_ray.engine.plan import SearchPlan, plan_search
from altermoma_ray.engine.source import DataSource
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.storage import Location

RESULTS = Path(__file__).parent / "results"
_PATHS = (
    "dataroot",
    "checkpoint",
    "results",
    "storage",
    "space",
)  # options that say where things are: not for a report
_PACKAGES = ("torch", "ray", "spconv-cu120", "spconv-cu126", "mlflow", "optuna", "nuscenes-devkit", "numpy")


@dataclass(frozen=True)
class Target:
    """One figure that a benchmark is about, and what it should be; a figure without bounds is only told."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def verdict(self) -> str:
        """What was wanted, and whether it came; empty where a figure is only told."""
        if self.least is None and self.most is None:
            return ""
        wanted = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        return f" (target {wanted}: {'met' if self.met else 'MISSED'})"


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark; the toy is made on first use."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", help="nuScenes folder (default: the synthetic toy, made on first use)")
    parser.add_argument("--checkpoint", help="weights of bevfusion-mit-toy (default: the ones that come with it)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    add_storage_option(parser)
    return parser


def toy_plan(
    options: argparse.Namespace, *, space: SearchSpace, trials: int = 1, storage: Path | None = None
) -> SearchPlan:
    """A search on the toy, in a storage folder of its own where its scoring and trials are measured from nothing.

    The index is built: opening the data is no part of what these benchmarks measure.
    """
    source = data_source("nusc", options.dataroot, None, options.storage)
    if storage is not None:
        source = DataSource(dataroot=source.dataroot, version=source.version, storage=str(Location.parse(storage)))
        source.index()
    return plan_search(
        name=None,
        dataset="nusc",
        source=source,
        synthetic=True,
        checkpoint=options.checkpoint,
        space=space,
        sparsity=0.85,
        trials=trials,
        repeat=True,  # so many trials are measured, whatever their settings are
        seed=options.seed,
    )


def machine() -> dict[str, Any]:
    """Facts about this machine, without which figures mean little."""
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load_average": os.getloadavg()[0],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def publish(
    options: argparse.Namespace,
    name: str,
    what: str,
    *,
    measured: Mapping[str, Mapping[str, Any]],
    targets: Sequence[Target],
    details: Mapping[str, Any],
) -> None:
    """Print what was measured beside its targets, and write ``<name>.json``.

    Args:
        options: the command's.
        name: of the file.
        what: one line: what is measured.
        measured: side to its figures, the same names on every side.
        targets: what the figures come to.
        details: every single measurement, for whoever wants to look closer.
    """
    console = Console(highlight=False)
    console.print(f"[bold]{what}[/]")
    table = Table("", *next(iter(measured.values())), box=box.SIMPLE_HEAD)
    for side, figures in measured.items():
        table.add_row(side, *(_cell(figure) for figure in figures.values()))
    console.print(table)
    for target in targets:
        console.print(f"{target.name}: [bold]{target.value:.2f}[/]{target.verdict}")
    arguments = {key: value for key, value in vars(options).items() if key not in _PATHS}
    report = {
        "what": what,
        "machine": machine(),
        "options": arguments,
        "measured": measured,
        "targets": [{**asdict(target), "met": target.met} for target in targets if target.verdict],
        "also": {target.name: target.value for target in targets if not target.verdict},
        "details": details,
    }
    write(options.results / f"{name}.json", report)


def write(file: Path, report: Mapping[str, Any]) -> None:
    """Write a report whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".json", delete=False, encoding="utf-8") as scratch:
        scratch.write(json.dumps(_finite(report), indent=2, ensure_ascii=False) + "\n")
    Path(scratch.name).chmod(0o644)
    Path(scratch.name).replace(file)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(figure: Any) -> str:
    return f"{figure:.3g}" if isinstance(figure, float) and figure < 1000 else f"{figure}"
