"""Redis users: what each part of the service may do, as an ACL file.

`python -m online_draft.store.roles` prints one with the passwords of the environment, hashed.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from online_draft.errors import ConfigError

Role = Literal["replica", "learner", "control", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""`admin` is for ingresses and commands; they also keep the rate limits."""

PASSWORD = "REDIS_PASSWORD_{role}"
"""Environment variable of a role's password."""


@dataclass(frozen=True, slots=True)
class Grant:
    """These commands on these keys (of all models) and channels."""

    commands: str
    keys: str = ""
    shared: str = ""
    """Keys that all models share."""
    channels: str = ""


GRANTS: Mapping[Role, tuple[Grant, ...]] = {
    "replica": (
        Grant("xadd xlen xtrim", "records"),
        Grant("xread", "decisions"),
        Grant("hset", "books counts"),
        Grant("hset hdel expire", "load"),
        Grant("hset expire", "refused"),
        Grant("hset expire", "arms:*"),
        Grant("hset expireat", "rollup:*"),
        Grant("set get", "rollup-epoch"),
        Grant("set", "status:* details:*"),
        Grant("publish", channels="busy"),
        Grant("multi exec discard ping info"),
    ),
    "learner": (
        Grant("xreadgroup xack xgroup xinfo xlen xrange xadd xdel", "records"),
        Grant("hgetall", "books load"),
        Grant("xadd", "decisions"),
        Grant("set", "status:*"),
        Grant("xadd expire xrevrange", "drift:*"),
        Grant("zadd zremrangebyrank expire zrange", "drift-segments:*"),
        Grant("hset expireat", "rollup:*"),
        Grant("set get", "rollup-epoch"),
        Grant("get", "drift-states:*"),
        Grant("subscribe unsubscribe", channels="busy"),
        Grant("multi exec discard ping info"),
    ),
    "control": (
        Grant("xadd xread", "decisions"),
        Grant("hgetall", "load arms:* books refused"),
        Grant("set mget", "status:*"),
        Grant("xrange", "drift:*"),
        Grant("zrange", "drift-segments:*"),
        Grant("set get", "drift-states:* control:*"),
        Grant("xadd", "learner-history:*"),
        Grant("multi exec discard ping"),
    ),
    "admin": (
        Grant("xadd", "decisions"),
        Grant("xlen xrange xrevrange xadd xdel", "records"),
        Grant("hgetall", "load books counts rollup:*"),
        Grant("get", "status:* drift-states:* details:*"),
        Grant("xrange", "drift:* learner-history:*"),
        Grant("zrange", "drift-segments:*"),
        Grant("get set del", shared="limit:* limit-epoch"),
        Grant("zadd zrem zcard zscore zremrangebyscore pexpire", shared="streams:* ingresses"),
        Grant("eval evalsha", shared="limit:* limit-epoch streams:* ingresses"),
        Grant("script|load time multi exec discard ping info"),
    ),
}
"""What each part does. `xread` on `decisions` waits for wake-ups."""


def acl_file(
    passwords: Mapping[Role, str], prefix: str = "od", default: str | None = None, selectors: bool = True
) -> str:
    """An ACL file with one user a role; the default user is switched off, or gets the password `default`.

    Redis 7 keeps each grant apart (`selectors`). Redis 6 knows only one set of commands and one of keys a
    user, so that there each command of a role is allowed on each of its keys. ConfigError for a password that
    is missing or a prefix that a pattern can't hold.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", prefix):
        raise ConfigError("redis.prefix", f"must be letters, digits and _ . : - for an ACL, got {prefix!r}")
    lines = ["user default off" if default is None else f"user default on {_hashed(default)} ~* &* +@all"]
    for role in ROLES:
        if not passwords.get(role):
            raise ConfigError(PASSWORD.format(role=role.upper()), "must not be empty")
        rules = _selected if selectors else _merged
        lines.append(" ".join([f"user {role} on", _hashed(passwords[role]), "resetchannels -@all",
                               *rules(GRANTS[role], prefix)]))  # fmt: skip
    return "\n".join(lines) + "\n"


def _selected(grants: tuple[Grant, ...], prefix: str) -> Iterator[str]:
    for grant in grants:
        rules = [*_commands(grant), *_patterns(grant, prefix)]
        if grant.keys or grant.shared or grant.channels:
            yield f"({' '.join(['-@all', *rules])})"
        else:
            yield from rules


def _merged(grants: tuple[Grant, ...], prefix: str) -> Iterator[str]:
    yield from dict.fromkeys(rule for grant in grants for rule in _patterns(grant, prefix))
    yield from dict.fromkeys(rule for grant in grants for rule in _commands(grant))


def _commands(grant: Grant) -> list[str]:
    return [f"+{command}" for command in grant.commands.split()]


def _patterns(grant: Grant, prefix: str) -> list[str]:
    homes = (prefix, f"{prefix}:realm:*")
    rules = [f"~{home}:{key}" for home in homes for key in grant.keys.split()]
    rules += [f"~{prefix}:{key}" for key in grant.shared.split()]
    return rules + [f"&{home}:{name}" for home in homes for name in grant.channels.split()]


def _hashed(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def main(environment: Mapping[str, str] = os.environ) -> str:
    """The file for the passwords in `REDIS_PASSWORD_REPLICA` and so on, and `REDIS_PREFIX`. ConfigError."""
    passwords: dict[Role, str] = {
        role: environment.get(PASSWORD.format(role=role.upper()), "") for role in ROLES
    }
    return acl_file(passwords, environment.get("REDIS_PREFIX", "od"))


if __name__ == "__main__":
    try:
        sys.stdout.write(main())
    except ConfigError as error:
        sys.exit(f"error: {error}")
