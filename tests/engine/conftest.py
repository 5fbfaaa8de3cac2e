from __future__ import annotations

import pytest
import ray
import torch

from altermoma_ray.engine.ray.workers import ray_session
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location
from tests.plans import toy_workload


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A toy model that knows nothing, as a checkpoint."""
    torch.manual_seed(0)
    file = Location.parse(tmp_path_factory.mktemp("checkpoint") / "random.safetensors")
    save_checkpoint(file, FusionModel(configuration("bevfusion-mit-toy")), {})
    return file


@pytest.fixture
def one_thread():
    """As a trial's worker has: with several, sums differ in their last bit from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def workload(synthetic_root, tmp_path):
    """The toy on the small synthetic set, with a storage folder of its own."""
    return toy_workload(tmp_path / "storage", synthetic_root)


@pytest.fixture
def source(workload):
    """The data of that workload."""
    return workload.load().source()


@pytest.fixture(scope="module")
def ray_of_four():
    """A real Ray on this machine that may run four one-thread workers, whatever the machine has."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 28)
    with ray_session():
        yield
    ray.shutdown()
