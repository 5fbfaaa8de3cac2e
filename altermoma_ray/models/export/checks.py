"""How far a written file is from the model, and the record of it in ``checks.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from altermoma_ray.errors import UserError

TOLERANCE = 1e-4
"""Largest relative difference of a file in single precision."""
HALF_TOLERANCE = 1e-2
"""Largest relative difference of a file in half precision, whose numbers have 11 binary digits."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is in a file, and how it was checked.

    >>> check = Check(file="fuser.onnx", by="onnxruntime", differences={"middle": 2e-6})
    >>> check.largest
    2e-06
    """

    file: str
    """Name of the file, or of a chain of files."""
    by: str
    """The program that ran the file."""
    against: str = "its part of the model"
    """The source of the expected outputs."""
    inputs: Mapping[str, list[int]] = field(default_factory=dict)
    """Shapes by name."""
    outputs: Mapping[str, list[int]] = field(default_factory=dict)
    """Shapes by name."""
    opset: int | None = None
    """Version of ONNX's operations."""
    differences: Mapping[str, float] = field(default_factory=dict)
    """Relative difference from the model, by output; see :func:`difference`."""
    tolerance: float = TOLERANCE
    """The largest difference allowed."""
    not_run_on: tuple[str, ...] = ()
    """Programs that the file is made for, but on which nobody has run it here."""

    @property
    def largest(self) -> float:
        """The largest difference; 0 where nothing was compared."""
        return max(self.differences.values(), default=0.0)

    def enforce(self) -> Check:
        """This check, if it is passed.

        Raises:
            UserError: the file differs from the model by more than the tolerance, or by no finite number.
        """
        for name, value in self.differences.items():
            # `not <=` instead of `>`: NaN compares False with everything.
            if not value <= self.tolerance:
                raise UserError(
                    f"{self.file}, run by {self.by}, differs from the model by {value:.1e} in {name}, more than "
                    f"{self.tolerance:.0e}; nothing was written: take another --seed, as proposals of almost equal "
                    "heat may look so, or check the weights for huge values"
                )
        return self

    def record(self) -> dict[str, object]:
        """The check as JSON's types."""
        return {
            "file": self.file,
            "run_by": self.by,
            "against": self.against,
            "opset": self.opset,
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "largest_relative_difference": self.largest,
            "allowed": self.tolerance,
            "differences": dict(self.differences),
            "notes": [f"not run on {program}" for program in self.not_run_on],
        }


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference of two tensors, over the largest absolute value of the second.

    >>> difference(torch.tensor([1.0, 2.01]), torch.tensor([1.0, 2.0]))  # doctest: +ELLIPSIS
    0.00499...
    """
    scale = float(expected.abs().max())
    apart = float((found - expected).abs().max())
    return apart / scale if scale else apart


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """The difference of every output by name.

    Args:
        found: outputs of a file.
        expected: outputs of the model, of the same names and shapes.

    Raises:
        UserError: a shape differs.
    """
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise UserError(
                f"output {name} of the written file is {list(found[name].shape)} instead of {list(tensor.shape)}; "
                "report it: the exporter has misread the model"
            )
    return {name: difference(found[name], tensor) for name, tensor in expected.items()}


def aligned(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first outputs with their queries in the order of the second ones'.

    Two cells whose heats differ by rounding alone may be ranked either way, and their queries then change places. The
    order which brings the queries of both closest together is an assignment problem.

    Args:
        found: by name [1, channels, queries].
        expected: the same.
    """
    scales = {name: float(tensor.abs().max()) or 1.0 for name, tensor in expected.items()}
    rows = [
        torch.cat([outputs[name][0] / scales[name] for name in expected]).T.contiguous()
        for outputs in (expected, found)
    ]
    _, order = linear_sum_assignment(torch.cdist(*rows, p=torch.inf).nan_to_num(nan=1e9).numpy())
    return {name: found[name][:, :, torch.from_numpy(order)] for name in expected}
