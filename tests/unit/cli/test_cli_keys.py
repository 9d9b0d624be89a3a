"""`keys` and `config`: what they print, and what they don't."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from online_draft.cli import main
from online_draft.serve.access.keyring import Keyring


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of a command, run as the console script does."""
    monkeypatch.setattr(sys, "argv", ["online-draft", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_secret_is_shown_once_and_opens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "state" / "online-draft" / "keys.json"
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "1000", "--max-streams", "3"]
    assert run(monkeypatch, "keys", "create", "alice", "--tenant", "acme", "--no-learn", *limits) == 0
    secret, told = capsys.readouterr()
    secret = secret.strip()
    assert secret.startswith("sk-od-") and secret not in told
    found = Keyring(path).find(secret)
    assert found is not None
    assert (found.name, found.tenant, found.learn, found.admin) == ("alice", "acme", False, False)
    assert (found.requests_per_minute, found.tokens_per_minute, found.max_streams) == (60, 1000, 3)
    assert path.stat().st_mode & 0o777 == 0o600
    assert run(monkeypatch, "keys", "list") == 0 == run(monkeypatch, "keys", "list", "--json")
    listed = capsys.readouterr().out
    assert "alice" in listed and "acme" in listed and "1000" in listed
    assert secret not in listed and found.digest not in listed
    assert run(monkeypatch, "keys", "revoke", "alice") == 0
    assert Keyring(path).find(secret) is None and Keyring(path).required


def test_names_are_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "keys", "create", "alice", "--file", "k.json") == 0
    for arguments, says in (
        (("create", "alice"), "already"),
        (("create", "a b"), "1 to 64 of"),
        (("create", "bob", "--tenant", "x/y"), "tenant"),
        (("revoke", "carol"), "no key 'carol'"),
    ):
        capsys.readouterr()
        assert run(monkeypatch, "keys", *arguments, "--file", "k.json") == 2
        assert says in capsys.readouterr().err
    assert run(monkeypatch, "keys", "list", "--file", "nowhere.json") == 0
    assert capsys.readouterr().err == "no keys\n"


def test_config_show_has_value_source_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONLINE_DRAFT_LOG__FORMAT", "json")
    assert run(monkeypatch, "config", "show", "log") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [
        "log.level", "log.format", "log.file", "log.max_bytes", "log.backups",
    ]  # fmt: skip
    assert rows[1].split()[1:3] == ['"json"', "env"] and rows[1].endswith("one object a line.")
    assert run(monkeypatch, "config", "show", "--json", "log.level") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["log.level"]["value"] == "info" and shown["log.level"]["source"] == "default"
    assert run(monkeypatch, "config", "show", "lag") == 2


def test_config_check_names_everything_wrong_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text('port = "x"\n[log]\nformat = "xml"\n')
    assert run(monkeypatch, "config", "check", "bad.toml") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all(line.startswith("error: ") for line in told)
    assert any("log.format" in line and "'text' or 'json'" in line for line in told)
    (tmp_path / "good.toml").write_text("port = 1\n")
    assert run(monkeypatch, "config", "check", "good.toml") == 0
    assert capsys.readouterr().out == "settings are valid\n"
