"""The ACL file: every key is somebody's, and no password is written."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from online_draft.errors import ConfigError
from online_draft.store import RedisKeys
from online_draft.store.roles import ROLES, acl_file, main

PASSWORDS = {role: f"pass-of-{role}" for role in ROLES}


def all_names(keys: RedisKeys) -> list[str]:
    """Every key that there is, as its methods name it."""
    found = []
    for name, value in vars(RedisKeys).items():
        if isinstance(value, property) and not name.startswith("_"):
            found.append(getattr(keys, name))
        elif callable(value) and not name.startswith("_"):
            number = value.__code__.co_argcount - 1
            found.append(value(keys, *["x"] * number))
    return [name for name in found if isinstance(name, str)]


@pytest.mark.parametrize("realm", ["", "org%2Fsql"])
@pytest.mark.parametrize("selectors", [True, False])
def test_every_key_is_granted_to_somebody(realm: str, selectors: bool) -> None:
    names = all_names(RedisKeys("mine", realm))
    assert len(names) > 12
    patterns = re.findall(r"[~&](mine:[^ )]+)", acl_file(PASSWORDS, "mine", selectors=selectors))
    assert [name for name in names if not any(fnmatchcase(name, each) for each in patterns)] == []


def test_users_have_hashes_alone_and_the_default_user_is_off() -> None:
    file = acl_file(PASSWORDS)
    assert [line.split()[1] for line in file.splitlines()] == ["default", *ROLES]
    assert "pass-of" not in file and "user default off" in file
    assert len(set(re.findall(r"#[0-9a-f]{64}", file))) == len(ROLES)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="REDIS_PASSWORD_LEARNER"):
        acl_file(PASSWORDS | {"learner": ""})
    with pytest.raises(ConfigError, match="REDIS_PASSWORD_REPLICA"):
        main({})
    with pytest.raises(ConfigError, match=r"redis\.prefix"):
        acl_file(PASSWORDS, "a b")


def test_the_command_reads_the_environment() -> None:
    environment = {f"REDIS_PASSWORD_{role.upper()}": password for role, password in PASSWORDS.items()}
    assert main(environment) == acl_file(PASSWORDS)
    assert main(environment | {"REDIS_PREFIX": "b"}) == acl_file(PASSWORDS, "b")
