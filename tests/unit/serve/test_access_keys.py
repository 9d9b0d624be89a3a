"""API keys: digests, the file, the keyring that follows it."""

from __future__ import annotations

import hmac
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import ConfigError
from online_draft.serve.access import keyring as keyring_module
from online_draft.serve.access.key import ApiKey, digest_of, new_secret
from online_draft.serve.access.key_file import changing_keys, read_keys, write_keys
from online_draft.serve.access.keyring import Keyring


def key(name: str, secret: str = "", **more: Any) -> ApiKey:
    return ApiKey(name=name, digest=digest_of(secret or name), **more)


def test_the_file_keeps_everything_but_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    secret = new_secret()
    keys = (
        key("alice", secret, tenant="acme", priority=-3, requests_per_minute=60, learn=False),
        key("bob", tokens_per_minute=1000, max_streams=2, admin=True, created="2026-01-01T00:00:00Z"),
        key("carol", models=("small", "org/large")),
    )
    write_keys(path, keys)
    assert read_keys(path) == keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text() and digest_of(secret) in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_secrets_are_long_and_differ() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100 and min(map(len, secrets)) >= 48


def test_a_tenant_is_its_key_unless_named() -> None:
    assert key("alice").tenant == "alice" and key("alice", tenant="acme").tenant == "acme"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"name": "a"}, "needs the field digest"),
        ({"digest": "0" * 64}, "needs the field name"),
        ({"name": "a", "digest": "0" * 63}, "64 hex digits"),
        ({"name": "a", "digest": "0" * 64, "secret": "x"}, "no field 'secret'; known: name, digest"),
        ({"name": "a b", "digest": "0" * 64}, "name: 1 to 64 of"),
        ({"name": "a", "digest": "0" * 64, "tenant": "x/y"}, "tenant: 1 to 64 of"),
        ({"name": "a", "digest": "0" * 64, "max_streams": 0}, "max_streams of key a: must be at least 1"),
        ({"name": "a", "digest": "0" * 64, "requests_per_minute": True}, "must be int or null"),
        ({"name": "a", "digest": "0" * 64, "tokens_per_minute": "many"}, "must be int or null"),
        ({"name": "a", "digest": "0" * 64, "learn": 1}, "learn: must be bool"),
        ({"name": "a", "digest": "0" * 64, "models": "small"}, "models: must be a list of names, or null"),
        ({"name": "a", "digest": "0" * 64, "models": [5]}, "models: must be a list of names, or null"),
        ({"name": "a", "digest": "0" * 64, "models": [""]}, "models of key a: names of models, or absent"),
        (7, "an object or a SHA-256"),
    ],
)
def test_a_wrong_entry_names_its_field(entry: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"schema": 1, "keys": [entry]}))
    with pytest.raises(ConfigError) as error:
        read_keys(path)
    assert says in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"keys": 1}', '{"schema": 9, "keys": []}', "\xff"])
def test_a_wrong_file_names_itself(content: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"keys\.json"):
        read_keys(path)


def test_names_and_secrets_are_used_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for double in (key("a", "x"), key("b", "a")):
        with pytest.raises(ConfigError, match="two keys"), changing_keys(path) as keys:
            keys[:] = [key("a"), double]
    assert not path.exists()
    write_keys(path, (key("a"),))
    with pytest.raises(ConfigError, match="two keys"):
        Keyring(path, ({"name": "a", "digest": "0" * 64},))


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def add(name: str) -> None:
        with changing_keys(path) as keys:
            keys.append(key(name))

    threads = [threading.Thread(target=add, args=(f"k{i}",)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found.name for found in read_keys(path)} == {f"k{i}" for i in range(12)}


def test_every_look_up_compares_every_digest_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    compare = hmac.compare_digest

    def counting(given: bytes, known: bytes) -> bool:
        compared.append(min(len(given), len(known)))
        return compare(given, known)

    ring = Keyring(None, tuple(key(name).as_dict() for name in ("a", "b", "c")))
    monkeypatch.setattr(keyring_module.hmac, "compare_digest", counting)
    for secret in ("a", "b", "c", "d", "", "x" * 10_000, "\ud800"):
        compared.clear()
        found = ring.find(secret)
        assert (found.name if found else None) == (secret if secret in {"a", "b", "c"} else None)
        assert compared == [64, 64, 64]


def test_bare_digests_are_keys_too() -> None:
    ring = Keyring(None, (f"sha256:{digest_of('s').upper()}",))
    found = ring.find("s")
    assert found is not None and found.name == found.tenant == f"key-{digest_of('s')[:8]}"
    assert ring.required


def test_keys_are_asked_for_as_soon_as_there_is_a_file_and_then_for_good(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = Keyring(path)
    assert not ring.required and not ring.refresh(at_once=True)
    write_keys(path, (key("a"),))
    assert ring.refresh(at_once=True) and ring.required and ring.find("a") is not None
    write_keys(path, ())
    assert ring.refresh(at_once=True) and ring.required and ring.find("a") is None
    path.unlink()
    assert ring.refresh(at_once=True) and ring.required
    assert Keyring(path, required=True).required


def test_a_revoked_key_is_no_longer_held(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, (key("a"), key("b")))
    ring = Keyring(path)
    a = ring.find("a")
    assert a is not None and ring.holds(a)
    write_keys(path, (key("b"),))
    assert ring.refresh(at_once=True) and not ring.holds(a)


def test_the_file_is_looked_at_twice_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = Keyring(path)
    write_keys(path, (key("a"),))
    assert not ring.refresh()
    ring._looked -= keyring_module.LOOK_EVERY_S
    assert ring.refresh() and ring.find("a") is not None


def test_a_file_that_broke_leaves_the_keys_and_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, (key("a"),))
    ring = Keyring(path)
    path.write_text("{")
    with caplog.at_level(logging.ERROR):
        assert not ring.refresh(at_once=True)
    assert ring.find("a") is not None and "stay as they were" in caplog.text
    write_keys(path, (key("b"),))
    os.utime(path, ns=(1, 1))
    assert ring.refresh(at_once=True) and ring.find("a") is None and ring.find("b") is not None
