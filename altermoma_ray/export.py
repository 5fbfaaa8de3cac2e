"""``python -m altermoma_ray.export RUN --target TARGET --out DIR``: a (pruned) model as files for other runtimes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rich.markup import escape

from altermoma_ray.cli import Parser, add_storage_option, run, seed
from altermoma_ray.console import console
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.models import open_model

if TYPE_CHECKING:
    from altermoma_ray.models.bevfusion import FusionModel
    from altermoma_ray.models.export.targets import Export

TARGETS = ("onnx", "cuda-bevfusion", "torch", "mmdetection3d")
"""Named here too, so that a mistyped option is told before PyTorch is imported; a test compares both."""
CHECKS = "checks.json"


def main() -> None:
    """Find the model, make and check all files in memory, then write them."""
    options = _parser().parse_args()
    out = Location.parse(options.out)
    out.check_writable()
    with open_model(options.run, Location.parse(options.storage), options.tracking_uri) as checkpoint:
        model = load_model(checkpoint)
    from altermoma_ray.models.export import targets

    made = targets.TARGETS[options.target](model, lambda step: console.print(f"  {step}"), options.seed)
    _write(out, made, model, options.target)
    console.print("[bold]checked[/]: largest relative difference of each file, of the difference allowed")
    _show(made)
    print(out)


def load_model(checkpoint: Location) -> FusionModel:
    """The model of a checkpoint.

    Raises:
        UserError: the file is missing, damaged, or of a model that is none of this project's.
    """
    from altermoma_ray.models.checkpoint import load_checkpoint, read_header
    from altermoma_ray.models.configurations.avod_fpn import AVOD_CONFIGURATIONS
    from altermoma_ray.models.weights.plain import is_ours
    from altermoma_ray.models.weights.state_files import check_numbers

    if is_ours(checkpoint):
        config = json.loads(read_header(checkpoint.read_bytes()).get("config", "{}"))
        if config.get("name") in AVOD_CONFIGURATIONS:
            raise UserError(
                f"{checkpoint} is of model {config['name']!r}, but files are made for BEVFusion models alone; export "
                "the model yourself with torch.export or torch.onnx"
            )
        if not {"inputs", "fuser", "head"} <= set(config):
            raise UserError(
                f"{checkpoint} is of a model of your own, whose parts this command does not know; export the model "
                "yourself with torch.export or torch.onnx"
            )
    model, _ = load_checkpoint(checkpoint)
    check_numbers(model.state_dict(), str(checkpoint))
    return model  # type: ignore[no-any-return]


def _write(out: Location, made: Export, model: FusionModel, target: str) -> None:
    """Write the files, and last their checks: a script that waits for these finds all files complete."""
    # Those of an earlier export must not stand beside new files.
    out.join(CHECKS).delete()
    for name, data in made.files.items():
        out.join(name).write_bytes(data)
    out.join(CHECKS).write_text(made.record(model, target))


def _show(made: Export) -> None:
    """A line for each check."""
    for check in made.checks:
        compared = f"{check.largest:.1e} of {check.tolerance:.0e}" if check.tolerance else f"{check.largest:.1e}"
        missing = "".join(f"; not run on {program}" for program in check.not_run_on)
        console.print(escape(f"  {check.file:<24} {compared:<16} {check.by}, against {check.against}{missing}"))
    for note in made.notes:
        console.print(escape(f"  {note}"))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.export", description=__doc__)
    parser.add_argument(
        "run",
        metavar="RUN",
        help="the model: a folder or file of prune or of a trial, a search (its champion), SEARCH/TRIAL, a run id of "
        "MLflow, or models:/NAME@champion",
    )
    parser.add_argument("--target", required=True, choices=TARGETS, help="format of the files")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files and checks.json")
    parser.add_argument("--seed", type=seed, default=0, help="of the drawn sample to check on (default: 0)")
    add_storage_option(parser)
    parser.add_argument("--tracking-uri", help="MLflow server (default: the database in the storage folder)")
    return parser


if __name__ == "__main__":
    run(main)
