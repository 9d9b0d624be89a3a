"""The Serve config and the cluster launcher's file, by Ray's own schemas."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

Documents = Callable[[str], list[dict[str, Any]]]


def rayservice(documents: Documents) -> dict[str, Any]:
    (found,) = documents("kubernetes/rayservice.yaml")
    return found


@pytest.fixture(params=["serve.yaml", "rayservice.yaml"])
def config(request: pytest.FixtureRequest, documents: Documents) -> dict[str, Any]:
    if request.param == "serve.yaml":
        return documents("serve.yaml")[0]
    loaded: dict[str, Any] = yaml.safe_load(rayservice(documents)["spec"]["serveConfigV2"])
    return loaded


def test_ray_reads_the_serve_config(config: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config)
    service, control = schema.applications
    assert (service.name, service.route_prefix) == ("online-draft", "/")
    assert (control.name, control.route_prefix) == ("online-draft-control", None)


def test_import_paths_are_builders_that_name_what_is_missing(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._common.utils import import_attr

    from online_draft.errors import ConfigError

    for application in config["applications"]:
        build = import_attr(application["import_path"])
        monkeypatch.delenv("ONLINE_DRAFT_REDIS__URL", raising=False)
        monkeypatch.delenv("ONLINE_DRAFT_ADMIN_KEY", raising=False)
        with pytest.raises(ConfigError, match=r"redis\.url"):
            build(application["args"])
        monkeypatch.setenv("ONLINE_DRAFT_REDIS__URL", "redis://nowhere")
        with pytest.raises(ConfigError, match="admin_key"):
            build(application["args"])


def test_without_keys_nobody_is_let_in(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from online_draft.launch import app
    from online_draft.launch.applications import cluster_settings
    from online_draft.launch.service import service_parts

    monkeypatch.setenv("ONLINE_DRAFT_REDIS__URL", "redis://nowhere")
    monkeypatch.setenv("ONLINE_DRAFT_REDIS__REPLICA_URL", "redis://replica@nowhere")
    monkeypatch.setenv("ONLINE_DRAFT_ADMIN_KEY", "k")
    monkeypatch.setenv("ONLINE_DRAFT_STATE_DIR", str(tmp_path))
    args = config["applications"][0]["args"]
    (part,) = service_parts(cluster_settings(args), "redis://nowhere", "k")
    assert part.config.keys_required
    assert part.config.replica_redis_url == "redis://replica@nowhere"
    assert app(args) is not None, "the service starts all the same, so that keys can be made"


def test_kubernetes_deploys_the_same_but_for_where_replicas_may_be(documents: Documents) -> None:
    loaded = yaml.safe_load(rayservice(documents)["spec"]["serveConfigV2"])
    overrides = {each["name"]: each for each in loaded["applications"][0].pop("deployments")}
    assert loaded == documents("serve.yaml")[0]
    from online_draft.serve.application import INGRESS, REPLICA

    assert set(overrides) == {INGRESS, REPLICA}
    assert all(each["max_replicas_per_node"] == 1 for each in overrides.values())


def test_rays_cluster_launcher_takes_its_file(documents: Documents) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (cluster,) = documents("ray/cluster.yaml")
    validate_config(prepare_config(cluster))
    options = cluster["docker"]["run_options"]
    assert {"--read-only", "--cap-drop=ALL", "--user=10001:10001"} <= set(options)
    assert not any(re.match(r"(-p|--publish|--privileged)", option) for option in options)
    assert "--dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])


def test_settings_in_the_files_exist(documents: Documents, deploy: Any) -> None:
    from online_draft.settings import ENV_PREFIX
    from online_draft.settings_docs import names

    known = {ENV_PREFIX + name.upper().replace(".", "__") for name in names()}
    known |= {f"{ENV_PREFIX}{name}" for name in ("CACHE", "IMAGE", "PUBLISH")}
    for name in ("Dockerfile", "docker-compose.yml", "kubernetes/rayservice.yaml"):
        used = set(re.findall(rf"\b{ENV_PREFIX}\w+", (deploy / name).read_text()))
        assert used and used <= known, name
