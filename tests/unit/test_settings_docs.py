"""Every setting has a meaning, a source, and errors that say what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from online_draft.settings_docs import DOCS, explain, find_errors, names, shown


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_documented_in_one_line() -> None:
    missing = [each.name for each in explain() if not each.doc]
    assert missing == [], (
        "add a line to DOCS in settings_docs.py, or a docstring below the field in settings.py"
    )
    assert [each.name for each in explain() if "\n" in each.doc] == []


def test_no_line_is_about_a_setting_that_is_gone() -> None:
    assert sorted(set(DOCS) - set(names())) == []


def test_the_source_of_each_value_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('port = 1\nhost = "::1"\n[engine]\ntree_nodes = 1\nmax_queue = 1\n')
    monkeypatch.setenv("ONLINE_DRAFT_PORT", "2")
    monkeypatch.setenv("ONLINE_DRAFT_LOG", '{"format": "json"}')
    found = {each.name: each for each in explain({"engine": {"tree_nodes": "3"}, "dtype": None}, file)}
    assert {name: (found[name].value, found[name].source) for name in (
        "engine.tree_nodes", "port", "log.format", "host", "engine.max_queue", "dtype", "log.level",
    )} == {
        "engine.tree_nodes": (3, "flag"),
        "port": (2, "env"),
        "log.format": ("json", "env"),
        "host": ("::1", "file"),
        "engine.max_queue": (1, "file"),
        "dtype": ("float32", "default"),
        "log.level": ("info", "default"),
    }  # fmt: skip


def test_secrets_are_masked() -> None:
    flags = {
        "admin_key": "hush",
        "redis": {"url": "redis://me:hush@host:1/0"},
        "access": {"keys": ["a" * 64, {"name": "bob", "digest": "b" * 64}]},
        "webhooks": {"url": "https://h/hush", "slack_url": "https://h/hush", "secret": "hush"},
    }
    text = str(explain(flags))
    assert "hush" not in text and "a" * 64 not in text and "b" * 64 not in text
    assert "redis://me:********@host:1/0" in text and "bob" in text
    assert shown("redis.url", "redis://host:1/0") == "redis://host:1/0"
    assert "hunter2" not in shown("redis.learner_url", "unix://learner:hunter2@/run/redis.sock")


def test_all_errors_are_named_with_what_is_accepted() -> None:
    flags = {
        "prot": 1, "dtype": "float8", "engine": {"tree_nods": 3}, "learner": {"mode": "never"},
        "tls": {"cert": "/nowhere/cert.pem"}, "access": {"burst_s": 0}, "log": {"format": "xml"},
    }  # fmt: skip
    told = {error.field: str(error) for error in find_errors(flags)}
    assert {"prot", "dtype", "engine", "learner.mode", "tls", "access.burst_s", "log.format"} == set(told)
    assert "is port meant?" in told["prot"] and "bfloat16" in told["dtype"] and "tree_nodes" in told["engine"]
    assert "dedicated" in told["learner.mode"] and "key" in told["tls"] and "json" in told["log.format"]
    assert find_errors() == []


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    for flags in (
        {"admin_key": ["hush"]}, {"access": {"keys": "hush"}}, {"access": {"kees": ["hush"]}},
        {"webhooks": "hush"}, {"webhooks": {"url": "hush"}}, {"webhooks": {"uri": "hush"}},
        {"webhooks": {"secret": ["hush"]}},
    ):  # fmt: skip
        errors = find_errors(flags)
        assert errors and "hush" not in str(errors)


def test_certificate_and_key_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch()
    (error,) = find_errors({"tls": {"cert": str(tmp_path / "no.pem"), "key": str(tmp_path / "key.pem")}})
    assert error.field == "tls.cert" and "no.pem" in str(error)


def documented_defaults() -> dict[str, str]:
    """What the tables of docs/operations.md behind "Fields of `[section]`" say, by setting."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for section, table in re.findall(r"Fields\s+of\s+`\[([\w.]+)\]`:\n\n((?:\|.*\n)+)", text):
        for row in table.splitlines()[2:]:
            fields, default = (cell.strip() for cell in row.split("|")[1:3])
            told = [part.strip("` ") for part in default.split(",")] if default else []
            asked = re.findall(r"`([\w.]+)`", fields)
            found |= {f"{section}.{name}": value for name, value in zip(asked, told, strict=False)}
    return found


def test_the_tables_of_the_documents_have_the_defaults() -> None:
    defaults = {each.name: each.value for each in explain()}
    told = documented_defaults()
    assert told.keys() <= defaults.keys()
    assert {name for name in defaults if name.startswith("control.drift.")} <= told.keys()
    wrong = {}
    for name, text in told.items():
        value = defaults[name]
        if isinstance(value, bool):
            same = text == str(value).lower()
        elif isinstance(value, int | float):
            same = text != "" and float(text) == value
        else:
            same = value is None or text == value
        if not same:
            wrong[name] = (text, value)
    assert wrong == {}
