"""A trial without work: it leaves the result of a real one, and imports no torch, so that many fit a machine."""

from __future__ import annotations

import json
import time
from typing import Any

from ray import tune

from altermoma_ray.storage import Location


class NoWork(tune.Trainable):
    """Reports and writes what :class:`altermoma_ray.engine.trials.trainable.TrialActor` does, but measures nothing."""

    def setup(self, config: dict[str, Any], folder: str = "", template: str = "", rungs: int = 0) -> None:
        self._folder, self._rungs = Location.parse(folder), rungs
        self._template = json.loads(Location.parse(template).read_bytes())
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task, self._started = new_config["task"], time.time()
        until = self._task["until"]
        self._whole = until is None
        self._evaluations = self._history(self._rungs + 1 if self._whole else until + 1)
        self._left = list(self._evaluations)
        return True

    def step(self) -> dict[str, Any]:
        if self._left:
            evaluation = self._left.pop(0)
            return {"done": False, "step": float(evaluation["step"]), **evaluation["metrics"]}
        self._write()
        return {"done": True}

    def _history(self, count: int) -> list[dict[str, Any]]:
        """Evaluations of this trial: its number settles its mAP."""
        value = self._task["number"] * 0.618034 % 1
        metrics = self._template["metrics"] | {"map": value, "nds": value / 2}
        return [{"step": 15 * (rung + 1), "metrics": metrics} for rung in range(count)]

    def _write(self) -> None:
        setting = {name: value for name, value in self._task["setting"].items() if isinstance(value, (str, float, int))}
        result = self._template | {
            "number": self._task["number"],
            "status": "finished" if self._whole else "stopped",
            "params": self._template["params"] | setting,
            "metrics": self._evaluations[-1]["metrics"],
            "history": self._evaluations,
            "started": self._started,
            "ended": time.time(),
        }
        file = self._folder.join("trials", f"{result['number']:04d}", "result.json")
        file.write_text(json.dumps(result, indent=2))
