"""A pushed adapter drafts for nobody until somebody loads it, and only on the base that it was made for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import ArtifactError
from online_draft.launch.admin import OfflineAdmin, open_desk
from online_draft.launch.pushing import push_drafter
from online_draft.launch.pushing_adapters import push_adapter
from online_draft.models.artifact import load_drafter, save_drafter
from online_draft.registry.adapters import AdapterRegistry
from online_draft.settings import Settings, load_settings

Make = Callable[..., Path]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings({"state_dir": str(tmp_path / "state")})


@pytest.fixture
def base(traffic: Any, tmp_path: Path) -> Any:
    save_drafter(traffic.drafter(), tmp_path / "base", traffic.loaded.fingerprint)
    return load_drafter(tmp_path / "base")


@pytest.fixture
def made(
    traffic: Any,
    base: Any,
    tmp_path: Path,
    make_adapter: Callable[..., Any],
    save_adapter: Callable[..., Path],
) -> Make:
    def make(segment: str = "sql", seed: int = 0, **changes: Any) -> Path:
        adapter = make_adapter(base, segment, seed=seed)
        card = {"target": traffic.loaded.fingerprint, "provenance": {"steps": 9}, **changes}
        return save_adapter(adapter, tmp_path / f"{segment}-{seed}", **card)

    return make


def test_a_pushed_adapter_is_registered_and_nothing_is_decided(
    settings: Settings, made: Make, tmp_path: Path
) -> None:
    version = push_drafter(settings, tmp_path / "base").version
    pushed = push_adapter(settings, made())
    assert (pushed.segment, pushed.base, pushed.fresh, pushed.running) == ("sql", version, True, False)
    desk = open_desk(settings)
    assert desk.journal.read() == []
    manifest = AdapterRegistry(desk.registry.store, desk.registry.target).verify(pushed.adapter)
    assert manifest.base == version and manifest.provenance.counts == {"steps": 9}
    again = push_adapter(settings, made())
    assert (again.adapter, again.fresh) == (pushed.adapter, False)


def test_of_two_names_for_its_base_the_champion_is_taken(
    settings: Settings, made: Make, tmp_path: Path
) -> None:
    push_drafter(settings, tmp_path / "base", "mine")
    push_drafter(settings, tmp_path / "base", "yours")
    open_desk(settings).decide("promote", "mine", "bootstrap", "")
    assert push_adapter(settings, made()).base == "mine"
    open_desk(settings).decide("promote", "yours", "cli", "")
    assert push_adapter(settings, made()).base == "yours"


def test_an_adapter_without_its_base_is_refused(settings: Settings, made: Make, tmp_path: Path) -> None:
    push_drafter(settings, tmp_path / "base")
    with pytest.raises(ArtifactError, match=r"belongs to a base, v1, with weights .* Register it first"):
        push_adapter(settings, made(base_digest="f" * 64))
    with pytest.raises(ArtifactError, match=r"for target other; .* knows llama-"):
        push_adapter(settings, made(target="other"))
    directory = made(seed=1)
    (directory / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="truncated"):
        push_adapter(settings, directory)
    wrong = made(seed=2)
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps({**config, "r": 5}))
    with pytest.raises(ArtifactError, match="shapes"):
        push_adapter(settings, wrong)
    assert OfflineAdmin(settings).adapters() == []


def test_the_commands_work_offline(
    settings: Settings,
    made: Make,
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = push_drafter(settings, tmp_path / "base").version
    open_desk(settings).decide("promote", version, "bootstrap", "")
    where = ("--state-dir", str(settings.state_dir))
    assert run("adapter", "push", str(made()), *where) == 0
    told = capsys.readouterr()
    adapter = told.out.strip()
    assert f"adapter load {adapter} --offline" in told.err
    assert run("adapter", "load", adapter, "--offline", "--reason", "try it", *where) == 0
    assert capsys.readouterr().out == f"decision 2: {adapter} drafts for sql\n"
    assert run("adapter", "list", "--offline", *where) == 0
    listed = capsys.readouterr().out
    assert listed.split() == [adapter, "sql", "on", version, "loaded"]
    assert run("adapter", "load", adapter, "--offline", *where) == 2
    assert "is loaded already" in capsys.readouterr().err
    assert run("adapter", "drop", "sql", "--offline", *where) == 0
    assert capsys.readouterr().out == f"decision 3: {adapter} drafts for sql no more\n"
    kept = push_adapter(settings, made("python", seed=1)).adapter
    assert run("adapter", "prune", "--last", "1", *where) == 0
    assert capsys.readouterr().out == f"deleted {adapter}\n"
    assert [entry["adapter"] for entry in OfflineAdmin(settings).adapters()] == [kept]
    decisions = open_desk(settings).journal.read()
    assert [(entry.kind, entry.actor) for entry in decisions[1:]] == [
        ("adapter_load", "cli"),
        ("adapter_drop", "cli"),
    ]
    assert decisions[1].reason == "try it"
