"""The manifests: each field is one that Kubernetes or KubeRay knows, and together they hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

FILES = ("state.yaml", "redis.yaml", "rayservice.yaml", "policies.yaml")
NAME, COMPONENT = "app", "component"
RAYS = {6379, 8265, 10001, 52365}


@pytest.fixture(scope="module")
def manifests(documents: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [manifest for name in FILES for manifest in documents(f"kubernetes/{name}")]


@pytest.fixture(scope="module")
def schema_of() -> Callable[[dict[str, Any]], dict[str, Any]]:
    spec = importlib.util.spec_from_file_location(
        "kubernetes_schema", Path(__file__).with_name("kubernetes_schema.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[dict[str, Any]], dict[str, Any]] = module.schema_of
    return found


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == kind}


def pods(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for spec in of_kind(manifests, "StatefulSet").values():
        yield spec["template"]
    cluster = of_kind(manifests, "RayService")["online-draft"]["rayClusterConfig"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


def test_every_field_is_known(manifests: list[dict[str, Any]], schema_of: Any) -> None:
    for manifest in manifests:
        jsonschema.validate(manifest, schema_of(manifest))


def test_a_misspelt_field_is_found(manifests: list[dict[str, Any]], schema_of: Any) -> None:
    (service,) = [each for each in manifests if each["kind"] == "RayService"]
    wrong = {**service, "spec": {**service["spec"], "serveConfig": "x"}}
    with pytest.raises(jsonschema.ValidationError, match="serveConfig"):
        jsonschema.validate(wrong, schema_of(wrong))


def test_all_files_are_applied(documents: Callable[[str], list[dict[str, Any]]]) -> None:
    (kustomization,) = documents("kubernetes/kustomization.yaml")
    assert sorted(kustomization["resources"]) == sorted(FILES)


def test_kustomize_renders_them(deploy: Path, tool: Callable[..., str]) -> None:
    rendered = tool("kubectl", "kustomize", str(deploy / "kubernetes"), probe="version --client")
    assert "registry.example.com/online-draft:latest" in rendered
    assert "image: online-draft\n" not in rendered


def test_volumes_claims_and_services_that_are_named_are_there(manifests: list[dict[str, Any]]) -> None:
    claims = set(of_kind(manifests, "PersistentVolumeClaim"))
    for pod in pods(manifests):
        volumes = {each["name"]: each for each in pod["spec"].get("volumes", [])}
        for each in volumes.values():
            assert each.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes or mount["name"] == "data"
            paths = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
            if container["image"] == "online-draft" and "users" not in container["name"]:
                assert paths == {"/var/lib/online-draft", "/var/cache/online-draft", "/tmp", "/dev/shm"}
    services = of_kind(manifests, "Service")
    assert set(services) == set(of_kind(manifests, "StatefulSet"))
    text = str(manifests)
    assert all(f"{name}:6379" in text for name in services)
    for name, spec in of_kind(manifests, "StatefulSet").items():
        assert matches({"matchLabels": services[name]["selector"]}, spec["template"]["metadata"]["labels"])


def test_rays_own_redis_is_another_one(manifests: list[dict[str, Any]]) -> None:
    cluster = of_kind(manifests, "RayService")["online-draft"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "online-draft-gcs-redis:6379"
    assert cluster["authOptions"] == {"mode": "token"}
    urls = [each["value"] for each in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
            if each["name"].startswith("ONLINE_DRAFT_REDIS")]  # fmt: skip
    assert len(urls) == 4 and all("@online-draft-redis:6379/" in url for url in urls)


def test_the_image_has_the_ray_that_the_manifest_names(manifests: list[dict[str, Any]]) -> None:
    pins = (Path(__file__).parents[3] / "constraints.txt").read_text().splitlines()
    version = of_kind(manifests, "RayService")["online-draft"]["rayClusterConfig"]["rayVersion"]
    assert f"ray=={version}" in pins


def test_only_the_api_is_open_to_all_and_dashboard_to_the_operator(manifests: list[dict[str, Any]]) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    for pod in pods(manifests):
        labels = pod["metadata"]["labels"]
        assert any(matches(policy["podSelector"], labels) for policy in policies.values()), labels
    ours = [{NAME: "online-draft", COMPONENT: part} for part in ("head", "worker")]
    for policy in policies.values():
        for rule in policy["ingress"]:
            open_ports = {each["port"] for each in rule.get("ports", [])}
            if "from" not in rule:
                assert open_ports == {8000}
            for peer in rule.get("from", []):
                inside = set(peer) == {"podSelector"}
                if not inside and open_ports & RAYS:
                    operator = {"app.kubernetes.io/name": "kuberay-operator"}
                    assert peer["podSelector"] == {"matchLabels": operator}
                    assert open_ports == {8265, 52365}
                if not open_ports:
                    assert inside and all(matches(peer["podSelector"], labels) for labels in ours)
    head = of_kind(manifests, "RayService")["online-draft"]["rayClusterConfig"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"


def test_one_worker_at_a_time_may_be_away_and_each_drains(manifests: list[dict[str, Any]]) -> None:
    from online_draft.serve.fleet.scaling import ScalingConfig

    (budget,) = of_kind(manifests, "PodDisruptionBudget").values()
    (group,) = of_kind(manifests, "RayService")["online-draft"]["rayClusterConfig"]["workerGroupSpecs"]
    template = group["template"]
    assert budget["maxUnavailable"] == 1 < group["replicas"]
    assert matches(budget["selector"], template["metadata"]["labels"])
    scaling = ScalingConfig()
    assert template["spec"]["terminationGracePeriodSeconds"] > scaling.drain_s + scaling.resume_s + 10


def test_every_container_says_what_it_needs_and_whether_it_lives(manifests: list[dict[str, Any]]) -> None:
    for pod in pods(manifests):
        for container in pod["spec"]["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
