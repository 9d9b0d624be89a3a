"""Settings: flags over environment over file over defaults, and errors that name the field."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from online_draft.control.webhooks.config import WebhookConfig
from online_draft.decoding.config import EngineConfig
from online_draft.errors import ConfigError
from online_draft.launch.child import as_environment, inherited
from online_draft.launch.service import control_place
from online_draft.settings import default_state_dir, describe, load_settings


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_flags_beat_environment_beats_file_beats_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().port == 8000
    file = tmp_path / "my.toml"
    file.write_text('port = 1\nhost = "::1"\n[engine]\ntree_nodes = 1\nmax_queue = 1\n')
    assert load_settings(config=file).engine.tree_nodes == 1
    monkeypatch.setenv("ONLINE_DRAFT_PORT", "2")
    monkeypatch.setenv("ONLINE_DRAFT_ENGINE__TREE_NODES", "2")
    assert (load_settings(config=file).port, load_settings(config=file).engine.tree_nodes) == (2, 2)
    settings = load_settings({"port": 3, "dtype": None, "engine": {"tree_nodes": 3}}, file)
    assert (settings.port, settings.host, settings.engine.tree_nodes, settings.engine.max_queue) == (
        3,
        "::1",
        3,
        1,
    )


def test_the_file_in_the_current_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "online-draft.toml").write_text("port = 5")
    assert load_settings().port == 5


@pytest.mark.parametrize(
    ("flags", "field", "says"),
    [
        ({"port": 99999}, "port", "65535"),
        ({"port": "abc"}, "port", "integer"),
        ({"dtype": "float8"}, "dtype", "bfloat16"),
        ({"device": "tpu"}, "device", "cuda"),
        ({"engine": {"tree_nodes": -1}}, "engine.tree_nodes", "negative"),
        ({"engine": {"nodes": 1}}, "engine", "tree_nodes"),
        ({"learner": {"mode": "sometimes"}}, "learner.mode", "dedicated"),
        ({"learner": {"pace": {"idle": 1}}}, "learner", "pace.idle"),
        ({"control": {"drift": {"delta": 2}}}, "control.drift.delta", "between 0 and 1"),
        ({"control": {"drift": {"window": 9}}}, "control.drift.window", "from 64 to 2048"),
        ({"control": {"drift": {"detla": 1}}}, "control", "drift.detla"),
        ({"learner": {"reservoirs": {"hard_share": 2.0}}}, "learner.reservoirs.hard_share", "[0, 1]"),
        ({"buffer": {"maxlen": 0}}, "buffer.maxlen", "1"),
        ({"redis": {"host": "x"}}, "redis.host", "config show"),
        ({"control": {"stalled_after_s": 0}}, "control.stalled_after_s", "positive"),
        ({"webhooks": {"url": "ftp://there/"}}, "webhooks.url", "https://"),
        ({"webhooks": {"slack_url": "http://"}}, "webhooks.slack_url", "https://"),
        ({"webhooks": {"timeout_s": 0}}, "webhooks.timeout_s", "greater"),
        ({"ray": {"object_store_mb": 1}}, "ray.object_store_mb", "80"),
        ({"colour": "red"}, "colour", "config show"),
    ],
)
def test_errors_name_the_field_and_what_it_accepts(flags: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(flags)
    assert error.value.field == field
    assert says in str(error.value)


def test_an_unreadable_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_settings(config=tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("port = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_settings(config=tmp_path / "bad.toml")


def test_state_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "online-draft"
    assert load_settings().artifacts == str(tmp_path / "online-draft" / "artifacts")


def test_the_admin_key_is_never_shown() -> None:
    settings = load_settings({"admin_key": "hush"})
    assert "hush" not in str(describe(settings)) and "hush" not in repr(settings)


def test_webhooks_are_never_shown_but_to_who_uses_them() -> None:
    given = {"url": "https://h/s3cret", "slack_url": "https://slack/s3cret", "secret": "s3cret"}
    settings = load_settings({"webhooks": given})
    assert "s3cret" not in str(describe(settings)) and "s3cret" not in repr(settings)
    assert settings.webhooks.revealed() == {**given, "timeout_s": 5.0, "give_up_s": 3600.0}
    place = control_place({"redis_url": "redis://h:1/0"}, settings)
    assert WebhookConfig(**place["webhooks"]) == WebhookConfig(**given, model="online-draft")


def test_the_model_is_named_after_its_target() -> None:
    assert load_settings().served_name == "online-draft"
    assert load_settings({"target": "/models/tiny"}).served_name == "tiny"
    assert load_settings({"target": "org/tiny", "model_name": "mine"}).served_name == "mine"


def test_every_setting_of_the_engine_is_shown() -> None:
    assert describe(load_settings())["engine"].keys() == {field.name for field in fields(EngineConfig)}


def test_a_child_inherits_all_but_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ONLINE_DRAFT_CACHE",
        "ONLINE_DRAFT_KERNELS",
        "ONLINE_DRAFT_PORT",
        "ONLINE_DRAFT_ENGINE__KERNELS",
    ):
        monkeypatch.setenv(name, "1")
    environment = inherited()
    assert {"ONLINE_DRAFT_CACHE", "ONLINE_DRAFT_KERNELS", "PATH"} <= environment.keys()
    assert not {"ONLINE_DRAFT_PORT", "ONLINE_DRAFT_ENGINE__KERNELS"} & environment.keys()


def test_a_child_sees_exactly_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        {
            "admin_key": "hush",
            "port": 7,
            "engine": {"tree_nodes": 3},
            "redis": {"url": "redis://h:1/0"},
            "webhooks": {"url": "https://h/s3cret", "secret": "hush", "timeout_s": 2.5},
        }
    )
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_a_list_of_a_section_comes_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = "ab" * 32
    monkeypatch.setenv("ONLINE_DRAFT_ACCESS__KEYS", f'["{digest}"]')
    assert load_settings().access.keys == (digest,)
    assert load_settings({"access": {"open": True}}).access.keys == (digest,)
    monkeypatch.setenv("ONLINE_DRAFT_ACCESS__KEYS", "not json")
    with pytest.raises(ConfigError, match=r"access\.keys"):
        load_settings()
