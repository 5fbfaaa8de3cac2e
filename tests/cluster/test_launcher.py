"""The cluster launcher's files, checked by Ray's own validator and tried on Ray's own autoscaler."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from jobs.definitions import DRIVER

CLUSTER = Path(__file__).parents[2] / "cluster"
CLOUDS = ("aws", "gcp")
FILES = (*CLOUDS, "local")
GPU_TRIAL, CPU_WORK = {"CPU": 1, "GPU": 1}, {"CPU": 1}


def load(name):
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def launches(name, demand, count, unavailable=()):
    """Machines that Ray's autoscaler would start for ``count`` requests on an empty cluster, by node type."""
    config = AutoscalingConfig(load(name), skip_content_hash=True)
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes() + 1,
            resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand)] * count),
            cloud_resource_availabilities=dict.fromkeys(unavailable, 0.0),
            recoverable_resource_availabilities=dict.fromkeys(unavailable, 0.0),
        )
    )
    return {request.instance_type: request.count for request in reply.to_launch if request.instance_type != "head"}


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name):
    config = prepare_config(load(name))
    validate_config(config)
    assert config["provider"]["type"] == name


def test_rays_validator_would_notice():
    config = prepare_config(load("aws"))
    broken = copy.deepcopy(config)
    broken["available_node_types"]["gpu_spot"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(broken)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_is_no_spot_machine_and_holds_drivers_only(name):
    config = prepare_config(load(name))
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert all(head["resources"][resource] >= share for resource, share in DRIVER.items())
    assert not is_spot(head)
    start = config["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert re.search(r"--resources='\{\"driver\": 1\}'", start)


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_start_from_nothing_and_go_when_idle(name):
    config = prepare_config(load(name))
    workers = {key: kind for key, kind in config["available_node_types"].items() if key != config["head_node_type"]}
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    assert config["max_workers"] == sum(kind["max_workers"] for kind in workers.values())
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert {key for key, kind in workers.items() if is_spot(kind)} == {"gpu_spot"}
    assert not any("driver" in kind["resources"] for kind in workers.values())


@pytest.mark.parametrize("name", CLOUDS)
def test_queued_trials_start_spot_machines_first_then_others(name):
    assert launches(name, GPU_TRIAL, 3) == {"gpu_spot": 3}
    assert launches(name, GPU_TRIAL, 3, unavailable=["gpu_spot"]) == {"gpu_on_demand": 3}
    assert launches(name, GPU_TRIAL, 20) == {"gpu_spot": 16, "gpu_on_demand": 4}


@pytest.mark.parametrize("name", CLOUDS)
def test_work_without_gpus_starts_no_gpu_machine(name):
    assert launches(name, CPU_WORK, 5) == {"cpu": 1}


@pytest.mark.parametrize("name", CLOUDS)
def test_drivers_start_no_machine(name):
    assert launches(name, dict(DRIVER), 100) == {}


@pytest.mark.parametrize("name", FILES)
def test_the_dashboard_is_on_loopback_and_asks_for_the_token(name):
    config = prepare_config(load(name))
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    settings = " ".join([*starts, *config.get("docker", {}).get("run_options", [])])
    assert "RAY_AUTH_MODE=token" in settings
    for setting in ("ALTERMOMA_STORAGE", "MLFLOW_TRACKING_URI"):
        assert re.search(rf"{setting}=[a-z0-9]*:?/", settings), setting
    assert any(target.endswith(".ray/auth_token") for target in config["file_mounts"])


@pytest.mark.parametrize("name", FILES)
def test_secrets_are_mounted_not_written(name):
    text = (CLUSTER / f"{name}.yaml").read_text()
    assert "0.0.0.0" not in text
    uncommented = re.sub(r"#.*", "", text)
    assert not re.search(r"(PASSWORD|TOKEN|SECRET\w*|ACCESS_KEY\w*)\s*[=:]", uncommented)


def is_spot(kind):
    settings = kind["node_config"]
    return "InstanceMarketOptions" in settings or any(
        part.get("provisioningModel") == "SPOT" or part.get("preemptible") for part in settings.get("scheduling", [])
    )
