"""The Kubernetes manifests: KubeRay's fields, Kubernetes' own schema, and what Ray's autoscaler reads from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray._private.runtime_env.validation import parse_and_validate_env_vars
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from jobs.definitions import DRIVER, runtime_env

CLUSTER = Path(__file__).parents[2] / "cluster"
MANIFESTS = ("kuberay/cluster.yaml", "kuberay/job.yaml", "mlflow/kubernetes.yaml")
KUBERNETES = "1.34"

# The part of KubeRay's custom resource definitions (ray.io/v1, KubeRay 1.6) that our files use, and nothing else:
# fields, types and required ones are KubeRay's; pod templates are left to Kubernetes' own schema.


def _object(properties: dict, required: tuple[str, ...] = ()) -> dict:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
TEMPLATE = _object({"metadata": {"type": "object"}, "spec": {"type": "object"}}, ("spec",))

HEAD = _object({"rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS, "template": TEMPLATE}, ("template",))
WORKERS = _object(
    {
        "groupName": TEXT,
        "replicas": WHOLE,
        "minReplicas": WHOLE,
        "maxReplicas": WHOLE,
        "idleTimeoutSeconds": WHOLE,
        "priority": WHOLE,
        "rayStartParams": TEXTS,
        "resources": TEXTS,
        "labels": TEXTS,
        "template": TEMPLATE,
    },
    ("groupName", "minReplicas", "maxReplicas", "template"),
)
CLUSTER_SPEC = _object(
    {
        "rayVersion": TEXT,
        "authOptions": _object({"mode": {"enum": ["disabled", "token"]}, "secretName": TEXT}),
        "enableInTreeAutoscaling": TRUTH,
        "autoscalerOptions": _object(
            {
                "version": {"enum": ["v1", "v2"]},
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "idleTimeoutSeconds": WHOLE,
            }
        ),
        "headGroupSpec": HEAD,
        "workerGroupSpecs": {"type": "array", "items": WORKERS},
    },
    ("headGroupSpec",),
)
JOB_SPEC = _object(
    {
        "entrypoint": TEXT,
        "entrypointResources": TEXT,
        "entrypointNumCpus": {"type": "number"},
        "runtimeEnvYAML": TEXT,
        "metadata": TEXTS,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "backoffLimit": WHOLE,
        "activeDeadlineSeconds": WHOLE,
        "shutdownAfterJobFinishes": TRUTH,
        "ttlSecondsAfterFinished": WHOLE,
        "rayClusterSpec": CLUSTER_SPEC,
    }
)


def _resource(kind: str, spec: dict) -> dict:
    return _object(
        {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": {"type": "object"}, "spec": spec},
        ("apiVersion", "kind", "metadata", "spec"),
    )


SCHEMAS = {"RayCluster": _resource("RayCluster", CLUSTER_SPEC), "RayJob": _resource("RayJob", JOB_SPEC)}


def documents(name):
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def resource(kind):
    """The one resource of this kind."""
    [found] = [document for name in MANIFESTS for document in documents(name) if document["kind"] == kind]
    return found


def cluster_specs():
    return {"RayCluster": resource("RayCluster")["spec"], "RayJob": resource("RayJob")["spec"]["rayClusterSpec"]}


def pods(spec):
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_resource_fits_its_schema(name):
    for document in documents(name):
        if document["kind"] in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[document["kind"]])
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_rays_pods_fit_kubernetes_schema(kind):
    for template in pods(cluster_specs()[kind]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas"), "maxReplicas"),
        (lambda spec: spec["authOptions"].update(mode="tokens"), "tokens"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda spec: spec.update(enableAutoscaling=True), "enableAutoscaling"),
    ],
)
def test_the_schema_would_notice(change, complaint):
    broken = copy.deepcopy(resource("RayCluster"))
    change(broken["spec"])
    with pytest.raises(jsonschema.ValidationError, match=complaint):
        jsonschema.validate(broken, SCHEMAS["RayCluster"])


@pytest.mark.parametrize("kind", SCHEMAS)
def test_rays_autoscaler_reads_the_groups(kind):
    specification = {"metadata": {"name": "altermoma", "namespace": "default"}, "spec": cluster_specs()[kind]}
    config = _derive_autoscaling_config_from_ray_cr(specification)  # validates what it derives
    types = config["available_node_types"]
    assert types.pop("headgroup")["resources"] == {"CPU": 0, "memory": 16 << 30, "driver": 1}
    assert {name: (kind["min_workers"], kind["max_workers"]) for name, kind in types.items()} == {
        "gpu-spot": (0, 16),
        "gpu-on-demand": (0, 16),
        "cpu": (0, 2),
    }
    assert types["gpu-spot"]["resources"] == types["gpu-on-demand"]["resources"]
    assert types["gpu-spot"]["resources"]["GPU"] == 1
    assert types["gpu-spot"]["priority"] > types["gpu-on-demand"]["priority"]
    assert 0 < config["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("kind", SCHEMAS)
def test_access_is_closed(kind):
    spec = cluster_specs()[kind]
    assert spec["authOptions"]["mode"] == "token"
    assert spec["rayVersion"] == ray.__version__
    for template in pods(spec):
        [container] = template["spec"]["containers"]
        assert container["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {variable["name"] for variable in container["env"]} == {"ALTERMOMA_STORAGE", "MLFLOW_TRACKING_URI"}
        assert container["envFrom"] == [{"secretRef": {"name": "altermoma-mlflow"}}]


def test_only_a_jobs_dashboard_leaves_loopback_and_a_policy_guards_it():
    specs = cluster_specs()
    assert specs["RayCluster"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert specs["RayJob"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    [policy] = [document for document in documents("kuberay/job.yaml") if document["kind"] == "NetworkPolicy"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    for template in pods(specs["RayJob"]):
        assert selected.items() <= template["metadata"]["labels"].items()
    assert policy["spec"]["ingress"]
    assert all(rule["from"] for rule in policy["spec"]["ingress"])


def test_a_jobs_cluster_is_the_cluster():
    cluster, job = copy.deepcopy(list(cluster_specs().values()))
    for template in pods(job):
        template.pop("metadata")
    for spec in (cluster, job):
        spec["headGroupSpec"]["rayStartParams"].pop("dashboard-host")
    assert job == cluster


def test_the_job_is_pinned_and_stops_slowly():
    spec = resource("RayJob")["spec"]
    assert json.loads(spec["entrypointResources"]) == dict(DRIVER)
    environment = yaml.safe_load(spec["runtimeEnvYAML"])
    assert parse_and_validate_env_vars(environment["env_vars"]) == runtime_env()["env_vars"]
    assert spec["shutdownAfterJobFinishes"]
