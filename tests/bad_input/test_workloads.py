"""References to workloads of a user's own, and what their files may get wrong."""

from __future__ import annotations

import re
import sys

import pytest

from altermoma_ray.engine.training.distillation import Distillation
from altermoma_ray.errors import UserError
from tests.workloads.two_branch import Generated, TwoBranch

BEGINNING = "from altermoma_ray.workloads import Recipe, Workload\n"
FILES = [
    ("workload without a task", "WORKLOAD = Workload(name='x', model=int)", r"`task` is missing; mend the file$"),
    (
        "task without a part",
        "WORKLOAD = Workload(name='x', model=int, task=1, data=2, recipe=Recipe(batch_size=1))",
        r"`task`, a int, has no `decode`; mend the file$",
    ),
    (
        "import from beside the file",
        "import layers",
        r"imports layers\.py, which lies beside it and is not copied to the",
    ),
    (
        "import that is not installed",
        "import no_such_module",
        r"does not run: ModuleNotFoundError: No module named 'no_such_module'; mend the file$",
    ),
    ("name that the file has not", "OTHER = 1", r"incomplete has no WORKLOAD; define WORKLOAD = Workload\(\.\.\.\)$"),
    ("name of something else", "WORKLOAD = 1", r"WORKLOAD is a int, not a Workload; name one$"),
]


@pytest.mark.parametrize("command", ["check", "search"])
@pytest.mark.parametrize(("what", "text", "pattern"), FILES, ids=[what for what, _, _ in FILES])
def test_file_of_a_workload(what, text, pattern, command, complaint, documented, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "incomplete", raising=False)  # of the case before
    (tmp_path / "layers.py").write_text("")
    file = tmp_path / "incomplete.py"
    file.write_text(BEGINNING + text)
    assert re.search(pattern, documented[what]), documented[what]
    assert re.search(pattern, complaint([command, f"{file}:WORKLOAD", "--storage", str(tmp_path / "storage")]))
    assert not list((tmp_path / "storage").rglob("*.py"))


@pytest.mark.parametrize(
    ("what", "reference", "pattern"),
    [
        (
            "missing workload file",
            "/nowhere/fusion.py:WORKLOAD",
            r"no workload file /nowhere/fusion\.py; give the path",
        ),
        (
            "missing package",
            "no_such_package.fusion:WORKLOAD",
            r"no module 'no_such_package'; install its package here",
        ),
    ],
)
def test_reference_of_a_workload(what, reference, pattern, complaint, documented, tmp_path):
    assert re.search(pattern, documented[what]), documented[what]
    assert re.search(pattern, complaint(["search", reference, "--storage", str(tmp_path / "storage")]))


def test_criterion_that_the_model_does_not_offer(complaint, documented, tmp_path):
    space = tmp_path / "space.py"
    space.write_text("from altermoma_ray.engine.space import SearchSpace\nSPACE = SearchSpace(criteria=('synflow',))\n")
    pattern = r"criterion 'synflow' needs a model with a method `flow`, which that of .*own_model.*WORKLOAD has not"
    line = ["search", "examples/own_model.py:WORKLOAD", "--space", str(space), "--storage", str(tmp_path / "storage")]
    assert re.search(pattern, documented["criterion that the model does not offer"])
    assert re.search(pattern, complaint(line))


class Classes(TwoBranch):
    """A model whose outputs are whole numbers."""

    def forward(self, batch, masked=frozenset()):
        return super().forward(batch, masked).round().long()


def test_distillation_from_outputs_without_real_numbers(documented):
    model = Classes()
    distillation = Distillation(model, model.state_dict(), Generated())
    with pytest.raises(UserError) as raised, distillation.loss(1.0):
        pass
    assert f"error: {raised.value}" == documented["distillation from outputs without real numbers"]
