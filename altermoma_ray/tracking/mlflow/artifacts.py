"""The files of a trial's run, laid out in a folder, which is then logged at once.

    configuration.json  layer_sparsity.json  histogram.json  histogram.html
    model/              the pruned model for ``mlflow.pytorch.load_model``
    and the trial's own files, unchanged (model.safetensors, masks.safetensors)

``mlflow.pytorch`` offers two formats. Its ``pt2`` traces the model and takes tensors only, so neither sparse
convolutions nor our batches pass; the other is a pickle. The plain ``pickle`` module writes it, so the file
holds tensors and names of importable classes, never code. Loading any pickle runs its names: load models only from a
store you trust, and where you do not, take ``model.safetensors``, as this project's own commands always do.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from altermoma_ray import __version__
from altermoma_ray.storage import Location
from altermoma_ray.tracking.histograms import histogram_page

if TYPE_CHECKING:
    from torch import nn

    from altermoma_ray.tracking.result import TrialResult

MODEL_FOLDER = "model"


def write_result(folder: Path, result: TrialResult) -> None:
    """Write the parts of a result beyond parameters and metrics."""
    # By way of the record's own JSON, where NaN is a string: json.dumps would write a bare NaN, which is no JSON.
    record = json.loads(result.to_json())
    for name in ("configuration", "layer_sparsity", "histogram"):
        # A failed trial has none of the three; an empty file would look like a result.
        if record[name]:
            (folder / f"{name}.json").write_text(json.dumps(record[name], indent=2))
    if result.histogram:
        (folder / "histogram.html").write_text(histogram_page(f"trial {result.number}", result.histogram), "utf-8")


def write_files(folder: Path, files: Mapping[str, Location | bytes]) -> None:
    """Write the files handed over, by name."""
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def write_model(folder: Path, model: nn.Module, run_id: str) -> None:
    """Write the model in MLflow's PyTorch format; the loading process must be able to import the model's class.

    Args:
        folder: of the run's files; the model gets a folder of its own in there.
        model: pruned; switched to evaluation.
        run_id: of the run, noted in the model's record.
    """
    # MLflow and PyTorch take seconds to import; commands that only read, or write the other files, go without.
    import mlflow
    import torch
    from mlflow.models import Model

    mlflow.pytorch.save_model(
        # The pickle keeps the mode: in training mode the loaded model would move its batch norms' statistics.
        model.eval(),
        folder / MODEL_FOLDER,
        # save_model knows no run: without the number the model's record would not name the run of its weights.
        mlflow_model=Model(artifact_path=MODEL_FOLDER, run_id=run_id),
        # MLflow's own module is cloudpickle, which puts the code of classes from a script into the file.
        pickle_module=pickle,
        serialization_format="pickle",
        # Named outright: MLflow would otherwise load the model in a new process to find them, for minutes.
        pip_requirements=[
            f"altermoma-ray=={__version__}",
            f"torch=={torch.__version__.split('+')[0]}",
            f"mlflow=={mlflow.__version__}",
        ],
    )
