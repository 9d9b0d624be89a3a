"""Who may come in is settled before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import ConfigError
from online_draft.launch.access import check_access
from online_draft.launch.service import service_config
from online_draft.settings import Settings, load_settings

DIGEST = "0" * 64


def settings(tmp_path: Path, **flags: Any) -> Settings:
    return load_settings({"state_dir": tmp_path, **flags})


def test_without_keys_only_this_machine_is_served(tmp_path: Path) -> None:
    assert check_access(settings(tmp_path)).startswith("no API keys: whoever is on this machine (127.0.0.1)")
    with pytest.raises(ConfigError) as error:
        check_access(settings(tmp_path, host="0.0.0.0"))
    assert error.value.field == "host"
    for way_out in ("online-draft keys create", "127.0.0.1", "access.open=true"):
        assert way_out in str(error.value)


def test_keys_or_the_operators_word_open_it(tmp_path: Path) -> None:
    keyed = settings(tmp_path, host="0.0.0.0", access={"keys": [DIGEST]})
    assert check_access(keyed).startswith("API keys: 1 valid")
    wide = settings(tmp_path, host="0.0.0.0", access={"open": True})
    assert check_access(wide).startswith("warning: access.open")


def test_a_broken_file_of_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(ConfigError, match=r"keys\.json"):
        check_access(settings(tmp_path))


def test_the_ingress_is_told_where_keys_and_logs_lie(tmp_path: Path) -> None:
    from online_draft.serve.config import ServiceConfig

    local = service_config(settings(tmp_path, access={"keys": [DIGEST]}), "redis://h:1/0", "admin")
    assert local.access.keys_file == str(tmp_path / "keys.json") and not local.keys_required
    assert local.log.file == str(tmp_path / "service.log")
    assert ServiceConfig.from_dict(local.as_dict()) == local
    assert service_config(settings(tmp_path, host="0.0.0.0"), "redis://h:1/0", "admin").keys_required
