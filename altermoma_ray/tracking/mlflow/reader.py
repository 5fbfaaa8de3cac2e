"""Searches as MLflow has them: found by name, their trials ranked, their champions.

experiment   altermoma-<dataset>-<model>
parent run   the search, its metrics and objective in its tags
child run    a trial
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from altermoma_ray.errors import UserError
from altermoma_ray.metrics import SPARSITY, Figures, Metric
from altermoma_ray.storage import Location
from altermoma_ray.tracking.leaderboard.board import (
    TRIAL_TAG,
    Champion,
    Row,
    champion_of,
    column_names,
    columns_of,
    rank_runs,
)
from altermoma_ray.tracking.mlflow.deleted import check_not_deleted
from altermoma_ray.tracking.mlflow.figures import RUN_STATUS
from altermoma_ray.tracking.mlflow.store import EXPERIMENT_PREFIX, Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from typing_extensions import Self

UNKNOWN = Figures()
"""No metrics at all."""
SEARCH_TAG, OBJECTIVE_TAG, FIGURES_TAG = "altermoma.search", "altermoma.objective", "altermoma.figures"
PARENT_TAG, REFERENCE_PREFIX = "mlflow.parentRunId", "reference/"
_PAGE_SIZE = 1000  # runs in one answer


class SearchReader:
    """Reads searches from MLflow.

    >>> reader = SearchReader.open(None, Location.parse("storage"), create=False)  # doctest: +SKIP
    >>> reader.leaderboard("first")[0].metrics                                     # doctest: +SKIP
    {'map': 0.81, 'nds': 0.63}

    Args:
        store: where MLflow keeps them.
        earlier: metrics of searches by earlier releases, whose runs lack this information.
    """

    def __init__(self, store: Store, earlier: Figures = UNKNOWN) -> None:
        self._store, self._earlier = store, earlier
        self._client = store.client

    @classmethod
    def open(
        cls, tracking_uri: str | None, storage: Location, *, create: bool = True, earlier: Figures = UNKNOWN
    ) -> Self:
        """Open a store, see :func:`altermoma_ray.tracking.mlflow.store.open_store`.

        Args:
            tracking_uri: of the store.
            storage: see :func:`open_store`.
            create: see :func:`open_store`.
            earlier: metrics of searches by earlier releases, whose runs lack this information.
        """
        return cls(open_store(tracking_uri, storage, create=create), earlier)

    @property
    def store(self) -> Store:
        """Address of the store."""
        return self._store

    def find_search(self, name: str | None = None) -> str:
        """The parent run id of a search, of the latest one by default.

        Raises:
            UserError: there is no search of this name, or it was deleted; the message names the others.
        """
        with self._store.reported():
            found = self._find(name)
            if found is not None:
                return str(found.info.run_id)
            known = sorted(run.data.tags[SEARCH_TAG] for run in self._searches())
            check_not_deleted(self._store, EXPERIMENT_PREFIX, SEARCH_TAG, name)
        if not known:
            raise UserError(f"no search in {self._store.name}; start one with python -m altermoma_ray.search")
        raise UserError(f"no search {name!r} in {self._store.name}; known: {', '.join(known)}")

    def leaderboard(self, name: str | None = None) -> list[Row]:
        """The completely logged trials of a search (None: the latest), best first, failed ones last.

        Raises:
            UserError: there is no search of this name.
        """
        return self._rows(self.find_search(name))

    def columns(self, name: str | None = None) -> list[str]:
        """The names of a leaderboard's columns (None: of the latest search), also before any trial was logged.

        Raises:
            UserError: there is no search of this name.
        """
        parent = self.find_search(name)
        with self._store.reported():
            search = self._client.get_run(parent)
        # From the search's own tags: a search without a trial has a heading, and needs no import of its model.
        return column_names(self._figures(search), self._objective(search))

    def champion(self, name: str | None = None) -> Champion | None:
        """The registered champion of a search (None: of the latest); None where there is none, or its run was deleted.

        Raises:
            UserError: there is no search of this name.
        """
        parent = self.find_search(name)
        with self._store.reported():
            search = self._client.get_run(parent)
            # Searched among the living trials: the tag on the search survives the deletion of its champion.
            return champion_of(search, self._trials(search))

    def _rows(self, parent: str) -> list[Row]:
        with self._store.reported():
            search = self._client.get_run(parent)
            runs = self._trials(search)
        # A RUNNING run is being logged, or was left half-written by a driver's death; neither is a result yet.
        logged = [run for run in runs if run.info.status in RUN_STATUS.values()]
        objective, figures = self._objective(search), self._figures(search)
        return rank_runs(logged, objective=objective, figures=figures, reference=reference_of(search))

    def _figures(self, search: Run) -> Figures:
        """The metrics of a search's trials."""
        # The figures travel with the search, so a leaderboard imports neither the task nor the model.
        text = search.data.tags.get(FIGURES_TAG)
        return self._earlier if text is None else Figures.from_json(text)

    def _objective(self, search: Run) -> tuple[Metric, ...]:
        """The metrics a search optimises; an unknown metric counts as better when higher."""
        figures = self._figures(search)
        names = search.data.tags[OBJECTIVE_TAG].split(",")
        # Another release may have logged a metric unknown here; the search's leaderboard opens all the same.
        return tuple(figures.find(name) or Metric(name, name) for name in names)

    def _axes(self, search: Run) -> tuple[Metric, Metric]:
        """The metrics of a search's picture: the second objective across and the first one up, else over sparsity."""
        objective = self._objective(search)
        shown = [metric for metric in columns_of(self._figures(search), objective) if metric != SPARSITY]
        # Sparsity goes across, as usual for pruning, unless a second objective of another kind takes the place.
        others = [metric for metric in objective if metric != SPARSITY]
        return (others[1] if len(others) > 1 else SPARSITY), (others or shown or [SPARSITY])[0]

    def _find(self, name: str | None) -> Run | None:
        found = self._named(name)
        return found[0] if found else None

    def _named(self, name: str | None) -> list[Run]:
        return [run for run in self._searches() if name in (None, run.data.tags[SEARCH_TAG])]

    def _searches(self) -> list[Run]:
        """All parent runs, the latest first."""
        # By the beginning of the name: a server's experiments of other projects would otherwise be searched, too.
        experiments = self._client.search_experiments(filter_string=f"name LIKE '{EXPERIMENT_PREFIX}%'")
        runs = self._runs([experiment.experiment_id for experiment in experiments], f"tags.`{SEARCH_TAG}` != ''")
        return sorted(runs, key=lambda run: run.info.start_time, reverse=True)

    def _trials(self, parent: Run, number: int | None = None) -> list[Run]:
        """A search's child runs, of one trial by its number or of all."""
        # MLflow asks for backticks around a key with a period.
        condition = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
        if number is not None:
            condition += f" and tags.`{TRIAL_TAG}` = '{number}'"
        return self._runs([parent.info.experiment_id], condition)

    def _runs(self, experiment_ids: list[str], condition: str) -> list[Run]:
        """All runs under a condition, page by page."""
        runs: list[Run] = []
        # The empty token asks for the first page; None ends the loop after the last.
        token: str | None = ""
        while experiment_ids and token is not None:
            page = self._client.search_runs(experiment_ids, condition, max_results=_PAGE_SIZE, page_token=token or None)
            runs.extend(page)
            token = page.token or None
        return runs


def reference_of(search: Run) -> dict[str, float]:
    """The unpruned model's metrics, as a search's run keeps them."""
    # The prefix keeps the unpruned model's figures apart from any that MLflow or a person adds to the search's run.
    found = search.data.metrics.items()
    return {key.removeprefix(REFERENCE_PREFIX): value for key, value in found if key.startswith(REFERENCE_PREFIX)}
