"""Fences that keep the house in order: floors, rooms, sizes, and words that the engine must not know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "altermoma_ray"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

FOREIGN = ("camera", "lidar", "nuscenes", "detectiontask", "transfusion")
"""Words of one workload, in any case and inside other words: a sensor, a data set, a task, a head."""
FOREIGN_METRICS = {"map", "nds"}
"""Names of one task's metrics, as whole strings."""


def test_imports_keep_to_floors_and_rooms():
    """The contracts in pyproject.toml; what breaks one is printed with the import's line.

    In a process of its own: the linter switches off the loggers of the process that it runs in.
    """
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    linter = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_no_file_is_too_long():
    lengths = {_name(file): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_too_long():
    too_long = {
        f"{_name(file)}:{node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert too_long == {}


def test_private_parts_of_ray_are_in_one_file():
    """Its functions each have a test, so that a newer Ray which moves a part is noticed."""
    found = {
        f"{_name(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        for module in _imported(node)
        if module.split(".")[0] == "ray" and any(part.startswith("_") for part in module.split("."))
    }
    assert {place.split(":")[0] for place in found} == {"altermoma_ray/engine/ray/private.py"}, sorted(found)


@pytest.mark.parametrize("floor", ["engine", "tracking"])
def test_engine_and_tracking_know_no_workload(floor):
    left = {
        _name(file): words
        for file in FILES
        if file.is_relative_to(PACKAGE / floor) and (words := sorted(set(_foreign_words(file.read_text()))))
    }
    text = "\n".join(f"{name}: {', '.join(words)}" for name, words in left.items())
    assert not left, f"{sum(map(len, left.values()))} words of a workload in {len(left)} files:\n{text}"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('"""Of a camera."""\nx = 1  # lidar\n', []),
        ('class A:\n    """Camera."""\n    y: int = 0\n    """LiDAR."""\n', []),
        ("from altermoma_ray.data.nuscenes.index import build\n", ["altermoma_ray.data.nuscenes.index"]),
        ("def f(camera_rows): return g(lidar=1)\n", ["camera_rows", "lidar"]),
        ('f(f"the Camera {x}", {"map": 1}, "a map of it")\n', ["map", "the Camera "]),
        ("DetectionTask(x.transfusion_head)\n", ["DetectionTask", "transfusion_head"]),
        ("map(float, x)\n", []),
    ],
)
def test_the_fence_of_words_sees_code_and_no_prose(source, words):
    assert sorted(_foreign_words(source)) == words


def _foreign_words(source: str) -> Iterator[str]:
    """Identifiers and strings of a module that name a workload, outside comments and docstrings."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings, of attributes too
    for node in ast.walk(tree):
        if id(node) in prose and isinstance(node, ast.Constant):
            continue
        is_metric = isinstance(node, ast.Constant) and node.value in FOREIGN_METRICS
        for _, field in ast.iter_fields(node):  # names of all kinds of nodes, and values of strings
            for text in field if isinstance(field, list) else [field]:
                if isinstance(text, str) and (is_metric or any(word in text.lower() for word in FOREIGN)):
                    yield text


def _imported(node: ast.AST) -> list[str]:
    """What a node imports, as module paths."""
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()
