"""The image: two stages, a user of its own, nothing written outside of its volumes; and compose."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RAYS = {"6379", "8265", "10001", "52365", "8080", "8076", "44217", "44227"}
"""GCS, dashboard, client, agents, metrics: never for the outside."""


def instructions(deploy: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (deploy / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_in_two_stages_for_cpu_and_cuda(deploy: Path) -> None:
    lines = instructions(deploy)
    assert [name for name, _ in lines].count("FROM") == 2
    build = (deploy / "Dockerfile").read_text()
    assert "ARG TORCH=cpu" in build and 'cuda) pip install "torch==$pin"' in build
    last = [name for name, _ in lines].index("FROM", 2)
    assert not any("pip install" in rest for _, rest in lines[last:]), "the last stage installs no packages"


def test_the_image_runs_as_a_user_without_rights_and_writes_to_its_volumes(deploy: Path) -> None:
    lines = instructions(deploy)
    assert [rest for name, rest in lines if name == "USER"] == ["10001:10001"]
    text = (deploy / "Dockerfile").read_text()
    for variable in ("ONLINE_DRAFT_STATE_DIR", "ONLINE_DRAFT_CACHE", "HF_HOME", "ONLINE_DRAFT_LOG__FILE"):
        written = re.search(rf"{variable}=(\S+)", text)
        assert written is not None
        assert written[1].startswith(("/var/lib/online-draft", "/var/cache/online-draft", "/tmp/"))
    assert "RAY_AUTH_MODE=token" in text
    assert [rest for name, rest in lines if name == "EXPOSE"] == ["8000"]


def test_what_the_build_copies_is_there_and_sent(deploy: Path) -> None:
    sent = {
        line[1:] for line in (deploy / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    copied = {
        source
        for name, rest in instructions(deploy)
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == sent
    assert all((deploy.parent / source).exists() for source in copied)


def test_compose_publishes_the_api_alone_beyond_this_machine(
    documents: Callable[[str], list[dict[str, Any]]],
) -> None:
    (compose,) = documents("docker-compose.yml")
    published = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert set(published) == {"head", "prometheus", "grafana"}
    assert published["head"] == ["${ONLINE_DRAFT_PUBLISH:-127.0.0.1:8000}:8000"]
    for port in published["prometheus"] + published["grafana"]:
        assert port.startswith("127.0.0.1:")
    assert not {port.rpartition(":")[2] for ports in published.values() for port in ports} & RAYS
    assert compose["networks"]["back"] == {"internal": True}


def test_compose_hardens_every_service(documents: Callable[[str], list[dict[str, Any]]]) -> None:
    (compose,) = documents("docker-compose.yml")
    for name, each in compose["services"].items():
        assert each["read_only"] and each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert not each.get("privileged")
        if name != "redis-users":  # which writes a fresh volume, without a network, and ends
            assert not str(each["user"]).startswith("0"), name
    for name in ("head", "worker", "deploy", "tools"):
        assert compose["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"
    assert "--dashboard-host=127.0.0.1" in compose["services"]["head"]["command"][-1]


def test_compose_files_and_volumes_that_it_mounts_are_there(
    deploy: Path, documents: Callable[[str], list[dict[str, Any]]]
) -> None:
    (compose,) = documents("docker-compose.yml")
    for each in compose["services"].values():
        for mount in each.get("volumes", []):
            source = mount.split(":")[0]
            assert (deploy / source).exists() if source.startswith(".") else source in compose["volumes"]
        for network in each.get("networks", []):
            assert network in compose["networks"]
        assert set(each.get("depends_on", ())) <= set(compose["services"])


def test_compose_passes_its_own_checker(deploy: Path, tool: Callable[..., str]) -> None:
    text = (deploy / "docker-compose.yml").read_text()
    secrets = dict.fromkeys(re.findall(r"\$\{(\w+):\?", text), "x")
    file = str(deploy / "docker-compose.yml")
    tool("docker", "compose", "-f", file, "config", "--quiet", probe="compose version", **secrets)
