"""MLflow's page of a search, as a real browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.mlflow.view import view_address
from altermoma_ray.tracking.result import TrialResult

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt install chromium)")
MAP = {0: 0.25, 1: 0.75, 2: 0.125, 3: 0.5, 4: None}  # by trial; the last one failed


def trial(number, value):
    failed = value is None
    return TrialResult(
        number=number,
        status="failed" if failed else "stopped" if number == 2 else "finished",
        reason="the loss is nan at step 4" if failed else None,
        params={"criterion": "snip"},
        metrics={} if failed else {"map": value, "nds": value / 2},
        sparsity={} if failed else {"total": 0.85, "camera": 0.9, "lidar": 0.75, "fusion": 0.8},
        started=1000 + number,
        ended=1010 + number,
    )


class Cells(HTMLParser):
    """The table of runs: row number to column name to text. Pinned columns stand in an element of their own."""

    def __init__(self):
        super().__init__()
        self.rows, self._row, self._cell = {}, None, None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get("role") == "row":
            self._row = attrs.get("row-index")
            self._cell = None
        if attrs.get("role") == "gridcell":
            self._cell = attrs["col-id"]

    def handle_data(self, data):
        if self._row is not None and self._cell is not None:
            row = self.rows.setdefault(int(self._row), {})
            row[self._cell] = row.get(self._cell, "") + data


def page(address, folder):
    """What the browser makes of an address, once its scripts have come to rest."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder}", "--window-size=2600,1400", "--virtual-time-budget=30000"]
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=240, check=True)
    return done.stdout


def test_leaderboard_page(tracking_server, tmp_path):
    tracker = Tracker.open(tracking_server.address, Location.parse(tmp_path))
    for name, values in (("page-2", {0: 0.9}), ("page-1", MAP)):
        parent = tracker.start_search(
            name, dataset="nusc", model="page", figures=FIGURES, params={"trials": len(values)}
        )
        runs = {number: tracker.log_trial(parent, trial(number, value), {}) for number, value in values.items()}
        if name == "page-1":
            tracker.register_champion(parent, runs[0])  # as far as it has come; then a better one ends
            tracker.register_champion(parent, runs[1])
            tracker.finish_search(parent)

    experiment = tracker.store.client.get_run(parent).info.experiment_id
    dom = page(view_address(tracking_server.address, experiment, "page-1"), tmp_path / "browser")

    assert "leaderboard page-1" in dom  # the view's name, above the table
    cells = Cells()
    cells.feed(dom)
    rows = [cells.rows[number] for number in sorted(cells.rows)]
    names = [row["attributes.`Run Name`"][-9:] for row in rows]  # a colour's code stands before it
    assert names == ["trial-001", "trial-003", "trial-000", "trial-002", "trial-004"]
    shown = [float(row["metrics.`map`"]) for row in rows[:4]]
    assert shown == [0.75, 0.5, 0.25, 0.125]
    assert [row["tags.`altermoma.champion`"] for row in rows] == ["version 2", "-", "-", "-", "-"]
    assert [row["tags.`altermoma.status`"] for row in rows] == ["finished"] * 3 + ["stopped", "failed"]
    assert rows[0]["metrics.`sparsity/lidar`"] == "0.75"
    assert rows[0]["params.`criterion`"] == "snip"
