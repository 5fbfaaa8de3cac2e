"""Search spaces in files: the project's own by name, a user's by path, and a search's reference to its space.

A plain ``SearchSpace`` is saved whole with its search. A space of another class, or of a function ``suggest``
(:mod:`altermoma_ray.engine.space.suggesting`), is code, which is not saved. The search keeps the path of the file and
the hash of its content. With them, ``--resume`` either proposes the same trials or reports a changed file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ConfigDict, ValidationError

from altermoma_ray.engine.space.setting import reason
from altermoma_ray.engine.space.space import SearchSpace
from altermoma_ray.engine.space.suggesting import SuggestedSpace
from altermoma_ray.errors import UserError


class SpaceReference(BaseModel):
    """The file of a search space's code, with the hash of its content.

    >>> SpaceReference(file="spaces/mine.py", sha256="0f...").file
    'spaces/mine.py'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Path of the Python file with ``SPACE`` or ``suggest``."""
    sha256: str
    """Hash of the file's bytes."""

    def load(self, search: str) -> SearchSpace:
        """The space, loaded from its file.

        Args:
            search: name of the search, for messages.

        Raises:
            UserError: the file is gone, or has changed since.
        """
        # A changed space would draw other trials from the same seed: the search would silently become another one.
        file = Path(self.file)
        remedy = "put it back as it was, or start a new search"
        if not file.is_file():
            raise UserError(f"search {search!r} takes its space from {file}, which is not there; {remedy}")
        if _hash(file) != self.sha256:
            raise UserError(f"search {search!r} takes its space from {file}, which was changed since; {remedy}")
        return load_space(None, file)


def reference_to(space: SearchSpace, file: Path | None) -> SpaceReference | None:
    """The reference of a search to its space; None where the space is saved whole.

    >>> reference_to(SearchSpace(), None) is None
    True

    Args:
        space: the space of a search.
        file: the Python file of the space; None for a space of the project.

    Raises:
        UserError: the space is of a class of its own, and no file is known.
    """
    # Not ``isinstance``: a subclass may draw by code of its own, which its fields do not hold.
    if type(space) is SearchSpace:
        return None
    if file is None:
        raise UserError(
            f"a space of class {type(space).__name__} can be found again by its file only; give it with --space FILE"
        )
    return SpaceReference(file=str(file.expanduser().absolute()), sha256=_hash(file))


def load_space(name: str | None, file: Path | None = None) -> SearchSpace:
    """The space of ``search_spaces/<name>.py`` or of a user's file: its object ``SPACE``, or its function ``suggest``.

    Args:
        name: name of a space of the project. A reference to a user's workload, ``<module>:<name>``, stands for the
            ``SPACE`` beside the workload, in a module imported before. Without a ``SPACE``, the default is taken.
        file: Python file of a space; None takes the space by name.

    Raises:
        UserError: there is no file of this name, or neither a valid ``SPACE`` nor a ``suggest(trial, workload)``.
    """
    # The colon is on the right: a path may hold one itself, and a name never does.
    if file is None and name is not None and ":" in name:
        origin, _, _ = name.rpartition(":")
        beside = getattr(sys.modules.get(Path(origin).stem if origin.endswith(".py") else origin), "SPACE", None)
        return beside if isinstance(beside, SearchSpace) else SearchSpace()
    module = _import_named(name) if file is None else _import_file(file)
    space, suggest = getattr(module, "SPACE", None), getattr(module, "suggest", None)
    if inspect.isfunction(suggest) and (space is None or isinstance(space, SearchSpace)):
        try:
            return SuggestedSpace.of(suggest, space)
        except UserError as error:
            raise UserError(f"search space {file or name}: {error}") from None
    if not isinstance(space, SearchSpace):
        raise UserError(
            f"search space {file or name} defines neither SPACE = SearchSpace(...) nor suggest(trial, workload); "
            "add one"
        )
    return space


def _import_named(name: str | None) -> ModuleType:
    if name not in known_spaces():
        raise UserError(f"unknown search space {name!r}; choose {', '.join(known_spaces())}, or give --space FILE")
    return importlib.import_module(f"search_spaces.{name}")


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise UserError(f"no search space file {file}; give the path of a Python file that defines SPACE or suggest")
    # The module is named by its content: a file read twice gives the same classes, whose objects compare equal.
    name = f"altermoma_ray_user_space_{_hash(file)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise UserError(f"no search space file {file}; give the path of a Python file that defines SPACE or suggest")
    module = importlib.util.module_from_spec(specification)
    # Dataclasses and pydantic look up their module while its body runs; a broken module is taken out again below.
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except ValidationError as error:
        del sys.modules[name]
        remedy = "" if error.errors()[0]["type"] == "value_error" else "; mend the file"  # our own errors name a remedy
        raise UserError(f"search space {file}: {reason(error)}{remedy}") from None
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"search space {file} does not run: {type(error).__name__}: {error}; mend the file") from error
    return module


def known_spaces() -> list[str]:
    """Names of the project's own spaces, sorted."""
    # The folders are asked from the imported package: its place differs between a checkout and an installation.
    package = importlib.import_module("search_spaces")
    folders = [Path(folder) for folder in package.__path__]
    return sorted(file.stem for folder in folders for file in folder.glob("*.py") if file.stem != "__init__")


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
