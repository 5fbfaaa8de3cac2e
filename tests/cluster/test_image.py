"""The Dockerfile and the compose file, which no engine here can run: what they name must exist and agree."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def instructions():
    """The Dockerfile's instructions as (name, arguments), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments(name):
    return [value for instruction, value in instructions() if instruction == name]


def test_python_is_one_that_the_project_supports():
    major, minor = map(int, re.match(r"python:(\d+)\.(\d+)-slim", arguments("FROM")[0]).groups())
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PYPROJECT).groups()
    assert major == 3
    assert int(low) <= minor < int(high)


def test_everything_copied_exists_and_is_sent_to_the_engine():
    ignore = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {source for value in arguments("COPY") for source in shlex.split(value)[:-1]}
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in ignore


def test_the_package_is_whole():
    """What pip builds from what is copied has all packages that pyproject.toml names."""
    copied = {source for value in arguments("COPY") for source in shlex.split(value)[:-1]}
    included = re.search(r"include = \[(.*?)\]", PYPROJECT).group(1)
    assert {name.strip('" *') for name in included.split(",")} <= copied
    for file in re.findall(r'(?:readme|file) = "(.*?)"', PYPROJECT):
        assert file in copied


def test_the_extra_that_it_installs_is_defined():
    [extra] = re.findall(r"pip install .*\"\.\[(\w+)\]\"", DOCKERFILE.read_text())
    assert re.search(rf"^{extra} = \[", PYPROJECT, flags=re.MULTILINE)


def test_the_last_user_is_not_root_and_a_token_is_asked_for():
    assert arguments("USER") == ["ray"]
    assert [name for name, _ in instructions()][-1] == "USER"
    assert any("RAY_AUTH_MODE=token" in value for value in arguments("ENV"))


def test_the_shell_lines_parse():
    for line in arguments("RUN"):
        subprocess.run(["sh", "-n", "-c", line], check=True)


def test_compose_publishes_on_loopback_and_holds_no_secret():
    services = yaml.safe_load((ROOT / "cluster" / "mlflow" / "compose.yaml").read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:5000:5000"]
    for service in services.values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or re.fullmatch(r"\$\{\w+:\?.*\}", value), name
    assert re.search(
        r"://mlflow:\$\{POSTGRES_PASSWORD:\?", services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    )


@pytest.mark.parametrize("file", ["compose.yaml", "kubernetes.yaml"])
def test_the_starter_takes_the_options_given_to_it(file):
    text = (ROOT / "cluster" / "mlflow" / file).read_text()
    usage = subprocess.run(
        [sys.executable, "-m", "cluster.mlflow.start", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    command = next(
        part for document in yaml.safe_load_all(text) for part in commands(document) if "cluster.mlflow.start" in part
    )
    given = {word.split("=")[0] for word in command if word.startswith("--")}
    assert given
    assert given <= set(re.findall(r"--[a-z-]+", usage))


def commands(node):
    """Every ``command`` of a document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "command" else commands(value)
    elif isinstance(node, list):
        for value in node:
            yield from commands(value)
