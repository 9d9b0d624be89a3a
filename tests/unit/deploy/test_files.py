"""All deployment files: they parse, hold no secret, and open no door."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
YAML = [path for path in FILES if path.suffix in (".yaml", ".yml")]


def test_there_are_files() -> None:
    names = {str(path.relative_to(DEPLOY)) for path in FILES}
    assert {"Dockerfile", "docker-compose.yml", "serve.yaml", "kubernetes/rayservice.yaml"} <= names


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_parses_without_a_key_given_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(names) == len(set(names)), f"{path.name}:{node.start_mark.line + 1}: a key is given twice"
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert list(yaml.load_all(path.read_text(), Strict))


def given_values(data: Any) -> Iterator[tuple[str, str]]:
    """Every text in a document with the name that it has, those of `{name: …, value: …}` among them."""
    if isinstance(data, dict):
        if isinstance(data.get("value"), str):
            yield str(data.get("name")), data["value"]
        for name, value in data.items():
            if isinstance(value, str):
                yield str(name), value
            yield from given_values(value)
    elif isinstance(data, list):
        for item in data:
            yield from given_values(item)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{40,}\b", text)
    assert all(password.startswith("$") for password in re.findall(r"//\w+:([^@/\s]+)@", text))
    if path in YAML:
        for document in yaml.safe_load_all(text):
            for name, value in given_values(document):
                if re.search(r"(?i)password|token$|admin_key", name):
                    assert value.startswith("$"), f"{name}: {value}"


def test_secrets_are_drawn_anew_and_fit_for_urls() -> None:
    def draw() -> dict[str, str]:
        ran = subprocess.run([DEPLOY / "compose-env"], capture_output=True, text=True, check=True, timeout=20)
        return dict(line.split("=") for line in ran.stdout.splitlines())

    one, two = draw(), draw()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in one.values())
    assert len({*one.values(), *two.values()}) == 2 * len(one)
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "docker-compose.yml").read_text()))
    wanted |= set(re.findall(r"key: ([A-Z_]+)\}", (DEPLOY / "kubernetes/rayservice.yaml").read_text()))
    assert wanted <= set(one)


def test_the_dashboard_is_as_generated() -> None:
    ran = subprocess.run(
        ["python3", "-c", "import runpy; print(runpy.run_path('generate.py')['text'](), end='')"],
        cwd=DEPLOY / "grafana", capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    written = (DEPLOY / "grafana/online-draft.json").read_text()
    assert ran.stdout == written, "run `python deploy/grafana/generate.py`"
    numbers = [panel["id"] for panel in json.loads(written)["panels"]]
    assert len(numbers) == len(set(numbers)) > 10
