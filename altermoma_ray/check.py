"""``python -m altermoma_ray.check fusion.py:WORKLOAD``: is a workload fit for a search? Held against a few samples."""

from __future__ import annotations

from altermoma_ray.cli import Parser, add_data_options, run, workload_of
from altermoma_ray.console import console
from altermoma_ray.testing.workload import check_workload


def main() -> None:
    """Parse, load the workload, hold its data source, model and task against their contracts; Ray is not started."""
    parser = Parser(prog="python -m altermoma_ray.check", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="weights of the unpruned model")
    options = parser.parse_args()
    # The reference first: the most frequent faults (wrong names, files that do not run) need no sample.
    reference = workload_of(options)
    console.print(f"[bold]checking[/] {reference.name}")
    # In this process: a user's traceback then points at the user's own line, without Ray's frames around it.
    check_workload(reference.load(), console.print, options.checkpoint)
    print(f"{reference.name} is fit for a search")


if __name__ == "__main__":
    run(main)
