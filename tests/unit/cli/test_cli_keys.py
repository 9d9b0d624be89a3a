"""`keys` and `config`: what they print, and what they don't."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from online_draft.serve.access.keyring import Keyring

Run = Callable[..., int]


def test_a_secret_is_shown_once_and_opens(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "state" / "online-draft" / "keys.json"
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "1000", "--max-streams", "3"]
    assert run("keys", "create", "alice", "--tenant", "acme", "--no-learn", *limits) == 0
    secret, told = capsys.readouterr()
    secret = secret.strip()
    assert secret.startswith("sk-od-") and secret not in told
    found = Keyring(path).find(secret)
    assert found is not None
    assert (found.name, found.tenant, found.learn, found.admin) == ("alice", "acme", False, False)
    assert (found.requests_per_minute, found.tokens_per_minute, found.max_streams) == (60, 1000, 3)
    assert path.stat().st_mode & 0o777 == 0o600
    assert run("keys", "list") == 0 == run("keys", "list", "--json")
    listed = capsys.readouterr().out
    assert "alice" in listed and "acme" in listed and "1000" in listed
    assert secret not in listed and found.digest not in listed
    assert run("keys", "revoke", "alice") == 0
    assert Keyring(path).find(secret) is None and Keyring(path).required


def test_a_key_may_be_for_some_models_only(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    for name, models in (("alice", []), ("carol", ["--models", "small, org/large"])):
        assert run("keys", "create", name, *models, "--file", str(path)) == 0
    assert [key.models for key in Keyring(path).keys] == [None, ("small", "org/large")]
    capsys.readouterr()
    assert run("keys", "list", "--file", str(path)) == 0
    _, alice, carol = capsys.readouterr().out.splitlines()
    assert " all " in alice and " small,org/large " in carol


def test_names_are_checked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "alice", "--file", "k.json") == 0
    for arguments, says in (
        (("create", "alice"), "already"),
        (("create", "a b"), "1 to 64 of"),
        (("create", "bob", "--tenant", "x/y"), "tenant"),
        (("revoke", "carol"), "no key 'carol'"),
    ):
        capsys.readouterr()
        assert run("keys", *arguments, "--file", "k.json") == 2
        assert says in capsys.readouterr().err
    assert run("keys", "list", "--file", "nowhere.json") == 0
    assert capsys.readouterr().err == "no keys\n"


def test_config_show_has_value_source_and_meaning(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONLINE_DRAFT_LOG__FORMAT", "json")
    assert run("config", "show", "log") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [
        "log.level", "log.format", "log.file", "log.max_bytes", "log.backups",
    ]  # fmt: skip
    assert rows[1].split()[1:3] == ['"json"', "env"] and rows[1].endswith("one object a line.")
    assert run("config", "show", "--json", "log.level") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["log.level"]["value"] == "info" and shown["log.level"]["source"] == "default"
    assert run("config", "show", "lag") == 2


def test_config_check_names_everything_wrong_in_a_file(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text('port = "x"\n[log]\nformat = "xml"\n')
    assert run("config", "check", "bad.toml") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all(line.startswith("error: ") for line in told)
    assert any("log.format" in line and "'text' or 'json'" in line for line in told)
    (tmp_path / "good.toml").write_text("port = 1\n")
    assert run("config", "check", "good.toml") == 0
    assert capsys.readouterr().out == "settings are valid\n"
