"""The Redis client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from online_draft.errors import ConfigError, StoreError

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_NO_NOTIFICATIONS = MaintNotificationsConfig(enabled=False)
"""No handshake for them, over TCP, either: `CLIENT` is a command that no role has."""


def connect_redis(url: str, timeout_s: float = 2.0) -> redis.Redis:
    """A client for `url` (`redis://`, `rediss://` or `unix://`), binary, RESP3; connects on first use.

    A command is sent at most once: a retry after an unknown outcome is the caller's decision. No
    reply within `timeout_s` is `redis.TimeoutError`, so blocking reads must block for less.
    ConfigError for another scheme. No name of a library is sent, which a role may not do.
    """
    _check_scheme(url)
    return redis.Redis.from_url(
        url,
        protocol=3,
        legacy_responses=False,
        decode_responses=False,
        driver_info=None,
        maint_notifications_config=_NO_NOTIFICATIONS,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


def connect_async_redis(url: str, timeout_s: float = 2.0) -> redis.asyncio.Redis:
    """The same for an event loop."""
    _check_scheme(url)
    return redis.asyncio.Redis.from_url(
        url,
        protocol=3,
        legacy_responses=False,
        decode_responses=False,
        driver_info=None,
        maint_notifications_config=_NO_NOTIFICATIONS,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=AsyncRetry(NoBackoff(), 0),
    )


def _check_scheme(url: str) -> None:
    if not url.startswith(REDIS_SCHEMES):
        raise ConfigError("redis_url", f"{without_password(url)!r} is not one of {', '.join(REDIS_SCHEMES)}")


def without_password(url: str) -> str:
    """A URL fit to be shown."""
    return re.sub(r"(//[^/@:]*):[^@]*@", r"\1:********@", url)


@contextmanager
def redis_errors(action: str) -> Iterator[None]:
    """Turn what redis-py raises into StoreError("<action>: <reason>")."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise StoreError(f"{action}: {error}") from error
