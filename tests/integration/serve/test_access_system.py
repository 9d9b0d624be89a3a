"""Keys, limits, TLS and logs of the running system, over HTTPS as clients see it."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from online_draft.cli import app
from online_draft.launch import ChildSystem
from online_draft.launch.admin import OnlineAdmin
from online_draft.launch.run_file import RunFile
from online_draft.settings import Settings, load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BODY = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of our own for localhost, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, certificate: tuple[Path, Path]
) -> Settings:
    cert, key = certificate
    return load_settings(
        {
            "target": str(tiny),
            "state_dir": tmp_path_factory.mktemp("access") / "state",
            "host": "0.0.0.0",
            "port": 0,
            "threads": 1,
            "learner": {"mode": "off"},
            "control": {"enabled": False},
            "engine": {"max_sequences": 4, "max_queue": 4, "speculation": "always", "kernels": "off"},
            "log": {"format": "json"},
            "tls": {"cert": cert, "key": key},
        }
    )


def keys(settings: Settings, *arguments: str) -> str:
    ran = CliRunner().invoke(app, ["keys", *arguments, "--file", str(settings.keys_file)])
    assert ran.exit_code == 0, ran.output
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def secrets(settings: Settings) -> dict[str, str]:
    return {
        "alice": keys(settings, "create", "alice", "--requests-per-minute", "5"),
        "bob": keys(settings, "create", "bob", "--tenant", "acme"),
        "root": keys(settings, "create", "root", "--admin"),
    }


@pytest.fixture(scope="module")
def run(settings: Settings, secrets: dict[str, str]) -> Iterator[RunFile]:
    with ChildSystem(settings) as running:
        yield running


@pytest.fixture
def http(run: RunFile, certificate: tuple[Path, Path]) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    url = f"https://localhost:{run.port}"
    with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=trust) as client:
        yield client


def ask(http: httpx.Client, secret: str) -> httpx.Response:
    return http.post("/v1/completions", json=BODY, headers={"Authorization": f"Bearer {secret}"})


def test_https_keys_limits_and_one_request_id(
    http: httpx.Client, run: RunFile, secrets: dict[str, str]
) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{run.port}/health", trust_env=False)
    assert http.get("/health").status_code == 200
    assert http.post("/v1/completions", json=BODY).status_code == 401
    answers = [ask(http, secrets["alice"]) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "5"
    assert len(answers[0].headers.get_list("x-request-id")) == 1
    assert ask(http, secrets["bob"]).status_code == 200


def test_admin_keys_and_the_run_files_key_open_the_admin_api(
    run: RunFile, http: httpx.Client, secrets: dict[str, str], certificate: tuple[Path, Path]
) -> None:
    assert run.url.startswith("https://")
    admin = OnlineAdmin(run.url, run.admin_key, run.tls_cert)
    assert admin.status()["replica"]["ready"]
    admin.close()
    for name, status in (("root", 200), ("bob", 401)):
        headers = {"Authorization": f"Bearer {secrets[name]}"}
        assert http.get("/admin/api/status", headers=headers).status_code == status


def test_keys_come_and_go_within_two_seconds(
    http: httpx.Client, settings: Settings, until: Callable[..., Any]
) -> None:
    secret = keys(settings, "create", "carol")
    for expected, change in ((200, None), (401, "carol")):
        if change is not None:
            keys(settings, "revoke", change)
        until(lambda expected=expected: ask(http, secret).status_code == expected, 2.0)


def test_all_processes_log_json_and_no_words(
    http: httpx.Client, settings: Settings, secrets: dict[str, str], until: Callable[..., Any]
) -> None:
    headers = {"Authorization": f"Bearer {secrets['bob']}", "X-Request-Id": "req-of-mine"}
    body = {**BODY, "prompt": "upon upon upon xylophone"}
    answer = http.post("/v1/completions", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "req-of-mine"
    until(lambda: "req-of-mine" in settings.log_file.read_text())  # behind the answer
    text = settings.log_file.read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert {"ingress", "replica"} <= {line["process"] for line in found}
    (line,) = [line for line in found if line.get("request_id") == "req-of-mine"]
    assert (line["tenant"], line["status"], line["model"]) == ("acme", 200, "tiny")
    assert line["target"].startswith("llama-") and line["drafter_version"]
    assert "xylophone" not in text and "once upon" not in text
