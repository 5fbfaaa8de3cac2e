"""Shared by the commands: one-line errors with exit code 2, and quiet, readable progress."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from altermoma_ray.addresses import redacted
from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.engine.ray.private import in_submitted_job
from altermoma_ray.errors import UserError
from altermoma_ray.storage import DEFAULT_STORAGE, Location

if TYPE_CHECKING:
    from altermoma_ray.pruning.channels import Bounds
    from altermoma_ray.workloads.reference import WorkloadReference


DEFAULT_DATASET = "nusc"
"""The data set of a command line without one."""


def run(main: Callable[[], None]) -> None:
    """Run a command's ``main``; a user's mistake becomes one line and exit code 2, an interrupt exit code 130."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so everything begun is tidied up
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        main()
    except UserError as error:
        # The last place before a log: messages of libraries quote addresses with passwords in them, over several lines.
        print(f"error: {redacted(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at the end
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other."""

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UserError` instead of printing the usage."""
        raise UserError(f"{message}; see --help")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options for the data set of a command and for the folder of its results."""
    parser.add_argument(
        "dataset",
        nargs="?",
        help=f"data set (default: {DEFAULT_DATASET}), or a workload of your own: package.module:NAME or file.py:NAME",
    )
    parser.add_argument(
        "--dataroot", help="folder or URI of the data set (default: a synthetic one, made on first use)"
    )
    parser.add_argument("--version", help="nuScenes version, such as v1.0-mini (default: v1.0-trainval)")
    add_reading_options(parser)
    add_storage_option(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Options for a data set with deviations from a published nuScenes: the fields of :class:`Reading`."""
    parser.add_argument(
        "--skip-invalid", action="store_true", help="leave out boxes and keyframes whose numbers cannot be"
    )
    parser.add_argument(
        "--partial", action="store_true", help="leave out scenes without files, and do without missing LiDAR sweeps"
    )
    parser.add_argument(
        "--lidar-columns",
        type=_lidar_columns,
        metavar="NAMES",
        help="float32 columns of a LiDAR file, _ for one to ignore (default: x,y,z,intensity,ring)",
    )
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="follow links out of the dataroot wherever they are below it (default: only those directly below it)",
    )


def _lidar_columns(text: str) -> tuple[str, ...] | None:
    """Names between commas as :class:`Reading` takes them, for argparse."""
    try:
        return Reading(lidar_columns=tuple(part.strip() for part in text.split(","))).lidar_columns
    except ValidationError as error:
        raise argparse.ArgumentTypeError(str(error.errors()[0]["ctx"]["error"])) from None


def reading_of(options: argparse.Namespace) -> Reading:
    """The reading of the data set, from the options."""
    return Reading(**{name: getattr(options, name) for name in Reading.model_fields if hasattr(options, name)})


def workload_of(options: argparse.Namespace) -> WorkloadReference:
    """The workload named by the options.

    Raises:
        UserError: there is no workload of the name, or an option does not go with the workload.
    """
    from altermoma_ray.workloads.reference import (
        find_workload,  # brings in torch, which a mere leaderboard does without
    )

    # None marks an option which was not given: each named workload has defaults of its own.
    asked: dict[str, Any] = {name: getattr(options, name) for name in ("dataroot", "version", "model")}
    reading = reading_of(options)
    # A default reading is no wish of the user, and a workload of the user's own refuses options.
    if reading != Reading():
        asked["reading"] = reading
    return find_workload(options.dataset or DEFAULT_DATASET, options.storage, **asked)


def add_storage_option(parser: argparse.ArgumentParser) -> None:
    """The option for the folder of all results."""
    parser.add_argument(
        "--storage",
        type=_storage,
        default=os.environ.get("ALTERMOMA_STORAGE") or DEFAULT_STORAGE,
        help=f"folder or URI for all results (default: $ALTERMOMA_STORAGE, else {DEFAULT_STORAGE})",
    )


def _storage(text: str) -> str:
    """The folder of all results, for argparse."""
    return _outliving(text, ", or set ALTERMOMA_STORAGE on the nodes")


def _outliving(text: str, remedy: str = "") -> str:
    """A place which outlives this process, for argparse: Ray deletes the working directory of a job."""
    if in_submitted_job() and "://" not in text and not Path(text).expanduser().is_absolute():
        raise argparse.ArgumentTypeError(
            f"{text} lies in the job's working directory, which Ray deletes; give an absolute path or a URI{remedy}"
        )
    return text


def add_worker_options(parser: argparse.ArgumentParser, *, workers_help: str) -> None:
    """Options for the spread of a job over the cluster."""
    parser.add_argument("--workers", type=positive_int, help=workers_help)
    parser.add_argument("--gpus-per-worker", type=amount, default=0.0, help="GPUs of each worker (default: 0)")


def add_save_detections_option(parser: argparse.ArgumentParser, whose: str) -> None:
    """The option for a folder of result files; ``whose`` names the predictions in the help."""
    parser.add_argument(
        "--save-detections",
        type=_outliving,
        metavar="DIR",
        help=f"new or empty folder for {whose}, as files that the data set's official evaluation reads",
    )


def add_bounds_options(parser: argparse.ArgumentParser) -> None:
    """Options for how narrow layers may become when channels are removed."""
    parser.add_argument(
        "--least-share",
        type=by_pattern(positive),
        action="append",
        metavar="[PATTERN=]SHARE",
        help="least share of channels that stays in every layer, or in the layers of a name pattern (default: 0.1)",
    )
    parser.add_argument(
        "--multiple",
        type=by_pattern(positive_int),
        action="append",
        metavar="[PATTERN=]NUMBER",
        help="widths are multiples of the number, in every layer or in the layers of a name pattern (default: 1)",
    )
    parser.add_argument(
        "--target",
        choices=("cuda-bevfusion",),
        help="a runtime whose kernels need multiples: 8, in the LiDAR encoder 16, of the lifted context 10",
    )


def bounds_of(options: argparse.Namespace) -> Bounds:
    """The bounds of channels, from the options; the options of single layers go before those of a target.

    Raises:
        UserError: a number is out of range.
    """
    from altermoma_ray.models.channels import CUDA_BEVFUSION  # brings in torch
    from altermoma_ray.pruning.channels import Bounds

    target = CUDA_BEVFUSION if options.target else Bounds()
    leasts, multiples = dict(options.least_share or ()), dict(options.multiple or ())
    return Bounds(
        least=leasts.pop("", target.least),
        multiple=multiples.pop("", target.multiple),
        least_of=leasts,
        multiple_of=multiples | {name: one for name, one in target.multiple_of.items() if name not in multiples},
    )


def by_pattern(read: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    """A value converted by ``read``, with the pattern before it or the empty text, for argparse.

    >>> by_pattern(positive_int)("head.*=8"), by_pattern(positive_int)("8")
    (('head.*', 8), ('', 8))
    """

    def read_both(text: str) -> tuple[str, Any]:
        pattern, _, value = text.rpartition("=")
        return pattern, read(value)

    return read_both


def add_plan_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """Options of a ``kind`` of work which is planned once, kept under a name, and resumed."""
    add_model_options(parser)
    parser.add_argument("--name", help=f"name of the {kind} (default: the next free one)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=f"go on with the {kind} NAME, or the latest one")
    again.add_argument(
        "--resume-or-start",
        action="store_true",
        help=f"go on with the {kind} NAME if storage has it, else start it: for a line that may be run again",
    )
    parser.add_argument(
        "--save-every",
        type=amount,
        default=60.0,
        metavar="SECONDS",
        help="seconds after which a trial saves its state again, from which it goes on when it dies (default: 60)",
    )


def add_cost_options(parser: argparse.ArgumentParser) -> None:
    """Limits of what a pruned model may cost, and the device to predict its latency for."""
    parser.add_argument(
        "--max-latency-ms",
        type=positive,
        metavar="MS",
        help="most milliseconds from a sample to decoded outputs, predicted: prune no more than this limit needs",
    )
    parser.add_argument(
        "--max-macs",
        type=_operations,
        metavar="NUMBER",
        help="most multiply-accumulate operations of one sample, such as 2.5e9",
    )
    parser.add_argument("--device", type=device, default="cpu", help="of the latency: cpu or cuda (default: cpu)")


def device(text: str) -> str:
    """A device that is here, for argparse."""
    import torch  # a mere leaderboard does without

    if text.startswith("cuda") and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"must be a device of this machine, but got {text} and there is no GPU")
    try:
        torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"must be a device of PyTorch, such as cpu or cuda:0, but got {text}"
        ) from None
    return text


def _operations(text: str) -> int:
    """A number of operations above 0, for argparse; powers of ten may be written as 1e9."""
    return max(1, round(positive(text)))


def resumes(options: argparse.Namespace, storage: Location) -> bool:
    """Whether the options resume work in storage; one line tells the choice of ``--resume-or-start``.

    Raises:
        UserError: ``--resume-or-start`` came without ``--name``.
    """
    if not options.resume_or_start:
        return bool(options.resume)
    if not options.name:
        raise UserError("--resume-or-start needs a --name, by which it finds again what it started")
    # Storage decides, not MLflow: the driver may have died before MLflow took the first run.
    there = storage.join("searches", options.name, "search.json").exists()
    console.print(
        f"[bold]going on[/] with {options.name}, which is in {storage}"
        if there
        else f"[bold]starting[/] {options.name}, which is not in {storage} yet"
    )
    return there


def given(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """The options of a plan given on the command line, defaults left out, by their names.

    Args:
        parser: of the command.
        options: the command line, parsed.

    Raises:
        UserError: the space file does not define a space.
    """
    from altermoma_ray.engine.space.files import load_space  # brings in Ray, which a mere leaderboard does without

    # argparse sets defaults only where the namespace lacks the name: parsed into a namespace full of None, the same
    # command line leaves None for each option which was not typed. `--seed 0` and no `--seed` are then told apart.
    blank = argparse.Namespace(**dict.fromkeys(vars(options)))
    found = {name: value for name, value in vars(parser.parse_args(namespace=blank)).items() if value is not None}
    # These only say which one is meant, and what is made of its result.
    for option in ("resume", "resume_or_start", "name", "storage", "tracking_uri", "save_detections"):
        found.pop(option, None)
    origin, colon, attribute = found.get("dataset", "").rpartition(":")
    if origin.endswith(".py"):  # a plan knows a workload's file by its name alone: the file may have moved
        found["dataset"] = f"{Path(origin).name}{colon}{attribute}"
    # The plan holds the whole address; a path typed relative to another working directory must compare equal.
    if "dataroot" in found:
        found["dataroot"] = str(Location.parse(found["dataroot"]))
    if "space" in found:
        found["space"] = load_space(None, found["space"])
    return found


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every pruning command: the model, its weights, the search space, MLflow."""
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="weights to prune: our .safetensors, or a released BEVFusion .pth")
    parser.add_argument("--tracking-uri", help="MLflow server (default: a SQLite file in the storage folder)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of all random draws (default: 0)")
    parser.add_argument(
        "--space",
        type=Path,
        help="Python file that defines SPACE or suggest (default: search_spaces/nusc.py, or SPACE beside a workload)",
    )


def positive_int(text: str) -> int:
    """A whole number above 0, for argparse."""
    # `isdecimal` first: `int` also takes "1_000", " 8" and "-3".
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, but got {text}")
    return int(text)


def seed(text: str) -> int:
    """A seed for every random generator, for argparse."""
    # NumPy's legacy generator takes no seed from 2**32 on.
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number in 0..{2**32 - 1}, but got {text}")
    return int(text)


def amount(text: str) -> float:
    """A number of at least 0, for argparse."""
    return _number(text, 0.0, math.inf, "a number of at least 0")


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = _number(text, 0.0, math.inf, "a number above 0")
    if value == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, but got {text}")
    return value


def listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Values between commas, each converted by ``read`` and none twice, for argparse."""

    def read_all(text: str) -> list[Any]:
        values = [read(part.strip()) for part in text.split(",") if part.strip()]
        if not values:
            raise argparse.ArgumentTypeError(f"must have a value, or several between commas, but got {text!r}")
        # A dictionary in place of a set: the order of the command line is the order of the tables.
        return list(dict.fromkeys(values))

    return read_all


def ratio(text: str) -> float:
    """A number in [0, 1), for argparse."""
    return _number(text, 0.0, 1.0, "in [0, 1)")


def _number(text: str, low: float, high: float, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Also refuses NaN, which compares False with everything.
    if not low <= value < high:
        raise argparse.ArgumentTypeError(f"must be {rule}, but got {text}")
    return value
