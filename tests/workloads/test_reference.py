"""References to workloads: what they find, and what is refused before anything starts."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.training.batches import RowLoader
from altermoma_ray.errors import UserError
from altermoma_ray.places import kept_in, read_from
from altermoma_ray.storage import Location
from altermoma_ray.workloads import Workload, WorkloadReference, find_workload
from altermoma_ray.workloads.reference import _load
from altermoma_ray.workloads.workload import digest_of, groups_of, sizes_of

OWN = Path(__file__).with_name("two_branch.py")


@pytest.fixture
def forget():
    """Modules of workload files are forgotten, as in another process."""

    def run(*names):
        _load.cache_clear()
        for name in names:
            sys.modules.pop(name, None)
        sys.path[:] = [entry for entry in sys.path if f"altermoma_ray-{os.getuid()}" not in entry]

    yield run
    run("two_branch", "own")


def test_a_named_workload_is_the_same_in_every_process(synthetic_root, tmp_path):
    reference = find_workload("nusc", str(tmp_path), dataroot=str(synthetic_root), model="bevfusion-mit-toy")
    again = pickle.loads(pickle.dumps(reference))
    assert again == reference
    workload = again.load()
    assert workload is reference.load()
    assert (workload.name, workload.dataset) == ("bevfusion-mit-toy", "nuscenes")
    assert workload.modalities == ("lidar", "camera")
    assert set(sizes_of(workload.build())) == {"camera", "lidar", "fusion"}


def test_a_file_travels_through_storage(tmp_path, forget):
    file = Path(shutil.copy(OWN, tmp_path / "own.py"))
    reference = find_workload(f"{file}:WORKLOAD", str(tmp_path / "storage"))
    assert reference.name == "own.py:WORKLOAD"
    first = digest_of(reference.load().unpruned())
    file.unlink()
    forget("own")
    workload = reference.load()
    assert isinstance(workload, Workload)
    assert digest_of(workload.unpruned()) == first
    model = workload.build()
    assert type(model).__module__ == "own"  # as its pickle in MLflow names it
    assert groups_of(model)["radar"] == ["radar.0.weight", "radar.2.weight"]


def test_a_file_s_samples_are_loaded_by_another_process(tmp_path, forget):
    file = Path(shutil.copy(OWN, tmp_path / "own.py"))
    data = find_workload(f"{file}:WORKLOAD", str(tmp_path / "storage")).load().source()
    rows = data.rows("validation")[:3]
    loader = RowLoader(data, rows, processes=1)
    (batch,) = loader.load([rows])
    assert type(batch) is type(loader.batch(rows))
    assert torch.equal(batch.radar, loader.batch(rows).radar)
    loader.close()


def test_a_copy_that_was_changed_or_is_gone_is_refused(tmp_path, forget):
    file = Path(shutil.copy(OWN, tmp_path / "own.py"))
    reference = find_workload(f"{file}:WORKLOAD", str(tmp_path / "storage"))
    (copy,) = (tmp_path / "storage" / "workloads").rglob("own.py")
    copy.write_text("WORKLOAD = None\n")
    with pytest.raises(UserError, match=r"copy of a workload's file, was changed; start the search again"):
        reference.load()
    copy.unlink()
    with pytest.raises(UserError, match=r"copy of a workload's file, is gone; start the search again"):
        reference.load()


def test_a_reference_moves_with_its_storage(tmp_path, forget):
    was, now = tmp_path / "was", tmp_path / "now"
    file = Path(shutil.copy(OWN, tmp_path / "own.py"))
    text = find_workload(f"{file}:WORKLOAD", str(was)).model_dump_json(context=kept_in(Location.parse(was)))
    shutil.move(was, now)
    moved = WorkloadReference.model_validate_json(text, context=read_from(Location.parse(now)))
    assert moved.load().name == "two-branch"


def test_an_importable_module_needs_no_file(tmp_path):
    reference = find_workload("tests.workloads.two_branch:WORKLOAD", str(tmp_path))
    assert reference.load().name == "two-branch"
    assert reference.asked() == {"dataset": "tests.workloads.two_branch:WORKLOAD"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "unknown",
            "",
            r"^unknown data set 'unknown'; choose nusc, kitti, or name a workload of your own: ",
        ),
        ("nowhere.fusion:WORKLOAD", "", r"^nowhere.fusion:WORKLOAD: no module 'nowhere'; install its package here and"),
        ("tests.workloads.two_branch:NAME", "", r"two_branch has no NAME; it has WORKLOAD$"),
        ("tests.workloads.two_branch:Batch", "", r"two_branch:Batch is a type, not a Workload; name one$"),
        ("FILE:WORKLOAD", "x = 1", r"^own.py:WORKLOAD: own has no WORKLOAD; define WORKLOAD = Workload\(...\)$"),
        (
            "FILE:WORKLOAD",
            "import nothing_there",
            r"does not run: ModuleNotFoundError: No module named 'nothing_there'",
        ),
        (
            "FILE:WORKLOAD",
            "1 / 0",
            r"own.py does not run: ZeroDivisionError: division by zero; mend the file$",
        ),
        (
            "nowhere.py:WORKLOAD",
            "",
            r"^no workload file nowhere.py; give the path of a Python file that defines",
        ),
    ],
)
def test_a_reference_to_no_workload_is_one_line(name, text, message, tmp_path, forget):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        find_workload(name.replace("FILE", str(file)), str(tmp_path / "storage"))
    assert not (tmp_path / "storage" / "workloads").exists()


@pytest.mark.parametrize("name", ["json.py", "my-model.py"])
def test_a_file_must_have_a_name_of_its_own(name, tmp_path):
    file = Path(shutil.copy(OWN, tmp_path / name))
    with pytest.raises(UserError, match=r"(name of another module|name that cannot be a module's).*; rename it"):
        find_workload(f"{file}:WORKLOAD", str(tmp_path))


def test_options_of_a_named_workload_do_not_go_with_ones_own(tmp_path):
    with pytest.raises(UserError, match=r"^--dataroot does not go with .*: a workload of your own says it itself"):
        find_workload(f"{OWN}:WORKLOAD", str(tmp_path), dataroot="/data")


def test_a_foreign_model_s_checkpoint_needs_no_configuration(tmp_path, forget):
    from altermoma_ray.models.checkpoint import save_checkpoint

    workload = find_workload(f"{OWN}:WORKLOAD", str(tmp_path)).load()
    model = workload.build()
    with torch.no_grad():
        model.head[1].weight.fill_(3)
    save_checkpoint(Location.parse(tmp_path / "own.safetensors"), model, {"from": "a test"})
    loaded = workload.unpruned(str(tmp_path / "own.safetensors"))
    assert digest_of(loaded) == digest_of(model)
    assert not loaded.training


def test_a_space_beside_a_workload_is_its_own(tmp_path):
    reference = f"{Path(__file__).parents[2] / 'examples' / 'own_model.py'}:WORKLOAD"
    find_workload(reference, str(tmp_path))
    assert load_space(reference).fine_tune_epochs == 4.0
    assert load_space("tests.workloads.two_branch:WORKLOAD") == SearchSpace()
