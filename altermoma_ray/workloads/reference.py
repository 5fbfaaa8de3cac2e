"""References to workloads: the few strings by which every process of a search finds the same model, task and data.

nusc                       a workload of the project, a module of this folder by its entry in ``NAMED``
my_package.fusion:NAME     an object of a module that can be imported wherever a worker runs
path/to/fusion.py:NAME     an object of a file; a copy of the file travels through storage
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, ValidationInfo, field_validator

from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location
from altermoma_ray.workloads.workload import Workload

NAMED = {"nusc": "altermoma_ray.workloads.nusc", "kitti": "altermoma_ray.workloads.kitti"}
"""Workloads that come with the project: a module with ``Options``, ``find`` and ``workload`` for each name."""


class WorkloadReference(BaseModel):
    """The place of a workload, in a form to be saved with a search and sent to its workers.

    >>> reference = find_workload("nusc", "storage")                       # doctest: +SKIP
    >>> reference.load().name                                               # doctest: +SKIP
    'bevfusion-mit-toy'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """``nusc``, ``kitti``, ``package.module:NAME`` or ``file.py:NAME``."""
    storage: Place
    """Local path or URI of the folder for everything derived: index, indicators, trials."""
    # Without SerializeAsAny pydantic would save a bare BaseModel, which has no fields: the options would be lost.
    options: SerializeAsAny[BaseModel] | None = None
    """The options of a named workload: data set, model."""
    sha256: str | None = None
    """Hash of the file; its copy in storage is read."""

    @field_validator("options", mode="before")
    @classmethod
    def _read_options(cls, value: Any, info: ValidationInfo) -> Any:
        # `info.data` holds the fields declared earlier: `name` must stay above `options`, or no class is found.
        if not isinstance(value, dict):
            return value
        # The context is handed on: places in the options are relative to the storage, whose address the context holds.
        module = importlib.import_module(NAMED[info.data["name"]])
        return module.Options.model_validate(value, context=info.context)

    @property
    def storage_location(self) -> Location:
        return Location.parse(self.storage)

    def load(self) -> Workload:
        """The workload, the same object whenever a process asks again.

        Raises:
            UserError: the module or file is gone, was changed, does not run, or names no workload.
        """
        return _load(self)

    def asked(self) -> dict[str, Any]:
        """The options of the command line, by their names there, with their values."""
        flat: dict[str, Any] = {"dataset": self.name}
        for name, value in dict(self.options or {}).items():
            flat |= dict(value) if isinstance(value, BaseModel) else {name: value}
        return flat


def upgraded(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan of a search as this release writes it; earlier releases knew the first named workload alone.

    Args:
        plan: JSON of a plan.
    """
    # A plan already in today's form passes unchanged, so that a caller need not know which release wrote the plan.
    if "workload" in plan:
        return plan
    first = importlib.import_module(next(iter(NAMED.values())))
    return cast(dict[str, Any], first.upgraded(plan))


def find_workload(name: str, storage: str, **asked: Any) -> WorkloadReference:
    """The reference of a workload named by a command; nothing big is made or read yet.

    Args:
        name: see the module's text.
        storage: folder or URI for everything derived.
        asked: options of a named workload, by their names on the command line; None stands for an option not given.

    Raises:
        UserError: there is no such workload, an option does not go with it, or storage cannot be written.
    """
    location = Location.parse(storage)
    if name in NAMED:
        options = importlib.import_module(NAMED[name]).find(location, **asked)
        return WorkloadReference(name=name, storage=str(location), options=options)
    origin, colon, attribute = name.rpartition(":")
    if not colon or not attribute.isidentifier():
        raise UserError(
            f"unknown data set {name!r}; choose {', '.join(NAMED)}, or name a workload of your own: "
            "package.module:NAME or file.py:NAME"
        )
    # Defaults of argparse are no wish of the user: None of a value, False of a switch.
    if given := [option for option, value in asked.items() if value not in (None, False)]:
        raise UserError(
            f"--{given[0].replace('_', '-')} does not go with {name}: a workload of your own says it itself"
        )
    location.check_writable()
    if not origin.endswith(".py"):
        # No hash: a package may differ between machines, and its version is the user's to keep equal.
        reference = WorkloadReference(name=name, storage=str(location))
        # Imported once here, for the error message; the workers import the package again by themselves.
        _named_object(_import(origin, name), reference)
        return reference
    file = Path(origin).expanduser()
    if not file.is_file():
        raise UserError(f"no workload file {file}; give the path of a Python file that defines {attribute}")
    text = file.read_bytes()
    # The hash makes the reference a name for these very bytes: a file edited while a search runs changes no trial.
    digest = hashlib.sha256(text).hexdigest()
    reference = WorkloadReference(name=f"{file.name}:{attribute}", storage=str(location), sha256=digest)
    _named_object(_import_file(file, digest), reference)
    copy = _copy_of(reference)
    if not copy.exists():
        copy.write_bytes(text)
    return reference


def _copy_of(reference: WorkloadReference) -> Location:
    file, _, _ = reference.name.rpartition(":")
    assert reference.sha256 is not None
    return reference.storage_location.join("workloads", reference.sha256[:16], file)


# A worker asks for its workload with every job; a module must run once only, or its classes would exist twice.
@lru_cache(maxsize=8)
def _load(reference: WorkloadReference) -> Workload:
    if reference.name in NAMED:
        module = importlib.import_module(NAMED[reference.name])
        return cast(Workload, module.workload(reference.options, reference.storage_location))
    origin, _, _ = reference.name.rpartition(":")
    if reference.sha256 is None:
        return _named_object(_import(origin, reference.name), reference)
    copy = _copy_of(reference)
    if not copy.exists():
        raise UserError(f"{copy}, the copy of a workload's file, is gone; start the search again")
    # Read once, checked and then used: the bytes which were hashed are the bytes which will run.
    text = copy.read_bytes()
    if hashlib.sha256(text).hexdigest() != reference.sha256:
        raise UserError(f"{copy}, the copy of a workload's file, was changed; start the search again")
    # Python imports from the disk alone, and the storage may be a bucket. Workers of one machine share the folder;
    # writing is atomic, so a worker never imports another's half-written file.
    file = _copies() / reference.sha256[:16] / copy.name
    if not file.exists() or file.read_bytes() != text:
        Location.parse(file).write_bytes(text)
    module = _import_file(file, reference.sha256)
    # A process that this one starts gets its path, and with it the workload's classes. The folder holds the one file.
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    return _named_object(module, reference)


def _copies() -> Path:
    """This user's folder of workload files on this machine, each in a folder of its own.

    Raises:
        UserError: the folder is another user's, who might put code there.
    """
    folder = Path(tempfile.gettempdir(), f"altermoma_ray-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder / "workloads"


def _named_object(module: ModuleType, reference: WorkloadReference) -> Workload:
    _, _, attribute = reference.name.rpartition(":")
    found = getattr(module, attribute, None)
    if found is None:
        known = [name for name, value in vars(module).items() if isinstance(value, Workload)]
        raise UserError(
            f"{reference.name}: {module.__name__} has no {attribute}; "
            + (f"it has {', '.join(known)}" if known else f"define {attribute} = Workload(...)")
        )
    if not isinstance(found, Workload):
        raise UserError(f"{reference.name} is a {type(found).__name__}, not a Workload; name one")
    return found


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    # The missing module may be the workload's own, a mistake in its name, or one which the workload imports: only the
    # first is told as a wrong name.
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise UserError(
                f"{name}: no module {error.name!r}; install its package here and on the workers, or give a file.py:NAME"
            ) from error
        raise _does_not_run(name, error) from error
    except Exception as error:
        raise _does_not_run(name, error) from error


def _import_file(file: Path, digest: str) -> ModuleType:
    """A file as a module of its own name: models are pickled for MLflow by the names of their classes."""
    name = file.stem
    if not name.isidentifier():
        raise UserError(f"workload file {file} has a name that cannot be a module's; rename it, such as fusion.py")
    # A second module of the name would replace the first in pickles: the class of a model is found by this name.
    there = sys.modules.get(name)
    if there is not None and getattr(there, "__workload_sha256__", None) == digest:
        return there
    if there is not None or _is_installed(name, digest):
        raise UserError(f"workload file {file} has the name of another module, {name!r}; rename it")
    specification = importlib.util.spec_from_file_location(name, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Marks the module as ours, for the next call in this process to tell from any other module of the name.
    module.__dict__["__workload_sha256__"] = digest
    # The difference to this set tells which modules the file brings in.
    before = set(sys.modules)
    # Before the module runs: dataclasses and pydantic look up a class's module in `sys.modules` while it is defined.
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
        _check_stands_alone(file, set(sys.modules) - before)
    except Exception as error:
        # A half-run module must not stay: a second import would find and return the stump.
        del sys.modules[name]
        if isinstance(error, ModuleNotFoundError):
            # The missing module may lie beside the file, off Python's path: the advice is the same as for one found.
            _check_stands_alone(file, {str(error.name)})
        raise _does_not_run(str(file), error) from error
    return module


def _check_stands_alone(file: Path, imported: Iterable[str]) -> None:
    """Find out whether a workload's file imports files beside itself.

    Workers import a copy of the one file: on another machine, the files beside it are not there.

    Args:
        file: of the workload.
        imported: names of the modules which the file imported, or tried to import.

    Raises:
        UserError: a module lies beside the file.
    """
    for name in sorted({*imported} - {file.stem}):
        beside = file.parent / f"{name}.py"
        origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) or beside
        if beside.is_file() and Path(origin).resolve() == beside.resolve():
            raise UserError(
                f"workload file {file} imports {beside.name}, which lies beside it and is not copied to the workers; "
                "put both into one file, or install them as a package and name package.module:NAME"
            )


def _is_installed(name: str, digest: str) -> bool:
    """Whether another module of the name is found; the file itself is found too where a command runs in its folder."""
    specification = importlib.util.find_spec(name)
    origin = None if specification is None else specification.origin
    if specification is None or (origin is not None and _copies() in Path(origin).parents):
        return False
    return (
        origin is None or not Path(origin).is_file() or hashlib.sha256(Path(origin).read_bytes()).hexdigest() != digest
    )


def _does_not_run(what: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, ValidationError) and error.title == Workload.__name__:
        first = error.errors()[0]
        part = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        wrong = f"`{part}` is missing" if first["type"] == "missing" else f"`{part}`: {said}" if part else said
        return UserError(f"workload {what} does not make its Workload(...): {wrong}; mend the file")
    text = " ".join(str(error).split())
    return UserError(f"workload {what} does not run: {type(error).__name__}: {text}; mend the file")
