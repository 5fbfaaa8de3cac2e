"""Pruned models by what a user calls them: a file, a folder, a search, a trial, a run of MLflow, a registered model."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.leaderboard.board import TRIAL_TAG
from altermoma_ray.tracking.mlflow.reader import SEARCH_TAG, SearchReader

MODEL_FILE = "model.safetensors"
"""The file of a pruned model, in a folder and among the files of a trial's run."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_TRIAL = re.compile(r"([A-Za-z0-9._-]+)/(\d+)")
_REGISTERED = re.compile(r"models:/([^/@]+)(?:@(.+)|/(\d+))")


@contextmanager
def open_model(reference: str, storage: Location, tracking_uri: str | None = None) -> Iterator[Location]:
    """While the context is open, the checkpoint of a pruned model.

    Example::

        with open_model("nusc-1", Location.parse("storage")) as checkpoint:
            model, metadata = load_checkpoint(checkpoint)

    Args:
        reference: a file; a folder with ``model.safetensors``, as ``prune`` and trials write it; ``SEARCH``, whose
            champion is meant; ``SEARCH/NUMBER``, a trial; the id of a run in MLflow; ``models:/NAME@ALIAS`` or
            ``models:/NAME/VERSION`` of MLflow's registry.
        storage: the folder of all results, with MLflow's database unless there is a server.
        tracking_uri: of an MLflow server or another database.

    Raises:
        UserError: nothing is found under the reference, or what is found has no model.
    """
    place = None if reference.startswith("models:/") else Location.parse(reference)
    if place is not None and place.exists():
        file = place.join(MODEL_FILE) if place.is_folder() else place
        if not file.exists():
            raise UserError(
                f"folder {place} holds no {MODEL_FILE}; give a folder that prune or a finished trial wrote, or the file"
            )
        yield file
        return
    # A path with an ending or several parts can be nothing else: MLflow is not asked, which may not be there at all.
    if not any(form.fullmatch(reference) for form in (_RUN_ID, _TRIAL, _REGISTERED)) and (
        "/" in reference or reference.endswith(".safetensors")
    ):
        raise UserError(f"no model at {reference}; give the folder or file of a pruned model, a search, or a run id")
    try:
        reader = ModelReader.open(tracking_uri, storage, create=False)
    except UserError as error:
        raise UserError(f"{reference} is no file or folder here, and {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        yield reader.fetch(reader.run_of(reference), Path(folder))


class ModelReader(SearchReader):
    """Finds runs with models, and fetches their checkpoints."""

    def run_of(self, reference: str) -> str:
        """The id of the run that a reference means; see :func:`open_model`.

        Raises:
            UserError: there is none.
        """
        if registered := _REGISTERED.fullmatch(reference):
            return self._registered(*registered.groups())
        if trial := _TRIAL.fullmatch(reference):
            return self._trial(trial[1], int(trial[2]))
        if _RUN_ID.fullmatch(reference):
            run_id, search = self._run(reference)
            return self._champion(search) if search else run_id
        return self._champion(reference)

    def fetch(self, run_id: str, folder: Path) -> Location:
        """Copy the checkpoint of a run into a folder.

        Raises:
            UserError: the run has none.
        """
        with self._store.reported():
            names = {file.path for file in self._client.list_artifacts(run_id)}
        if MODEL_FILE not in names:
            raise UserError(
                f"run {run_id} in {self._store.name} has no model: it failed, or is no trial; choose a finished trial "
                "of python -m altermoma_ray.leaderboard"
            )
        with self._store.reported():
            return Location.parse(self._client.download_artifacts(run_id, MODEL_FILE, str(folder)))

    def _champion(self, search: str) -> str:
        champion = self.champion(search)
        if champion is None:
            raise UserError(f"search {search!r} in {self._store.name} has no champion yet; name a trial: {search}/0")
        return champion.run_id

    def _trial(self, search: str, number: int) -> str:
        parent = self.find_search(search)
        with self._store.reported():
            runs = self._trials(self._client.get_run(parent), number)
        if not runs:
            raise UserError(
                f"search {search!r} in {self._store.name} has no trial {number}; choose one of its leaderboard"
            )
        return str(runs[0].info.run_id)

    def _run(self, run_id: str) -> tuple[str, str | None]:
        """The run's id, and its search's name where the run is a search."""
        from mlflow.exceptions import MlflowException

        try:
            tags = self._client.get_run(run_id).data.tags
        except MlflowException as error:
            raise UserError(
                f"no run {run_id} in {self._store.name}; python -m altermoma_ray.leaderboard lists the runs"
            ) from error
        return run_id, None if TRIAL_TAG in tags else tags.get(SEARCH_TAG)

    def _registered(self, name: str, alias: str | None, version: str | None) -> str:
        from mlflow.exceptions import MlflowException

        try:
            found = (
                self._client.get_model_version_by_alias(name, alias)
                if alias
                else self._client.get_model_version(name, str(version))
            )
        except MlflowException as error:
            raise UserError(
                f"no registered model {name}{'@' + alias if alias else '/' + str(version)} in {self._store.name}; the "
                "champions are named altermoma-DATASET-MODEL@champion"
            ) from error
        return str(found.run_id)
