"""The deployment files as data."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def deploy() -> Path:
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def documents(deploy: Path) -> Callable[[str], list[dict[str, Any]]]:
    """`documents("kubernetes/redis.yaml")`: what a YAML file holds."""

    def load(name: str) -> list[dict[str, Any]]:
        return [document for document in yaml.safe_load_all((deploy / name).read_text()) if document]

    return load


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """`tool("promtool", "check", …)` fails when the tool finds something, and skips where it isn't."""

    def run(name: str, *arguments: str, probe: str = "--version", **environment: str) -> str:
        found = shutil.which(name)
        if found is None or subprocess.run([found, *probe.split()], capture_output=True).returncode:
            pytest.skip(f"{name} is not installed")
        ran = subprocess.run(
            [found, *arguments],
            capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", **environment},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run
