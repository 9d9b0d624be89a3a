"""Sections of the settings that have no owner elsewhere, and how those that have are checked."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from online_draft.errors import ConfigError

MIN_OBJECT_STORE_MB = 80
"""Ray refuses less than 75 MiB."""


def only_fields_of(owner: type) -> Callable[[Any], Any]:
    """Refuse misspelt keys of a section whose dataclass lives beside its owner, at any depth."""

    def check(value: Any) -> Any:
        _check_keys(owner, value, "")
        return _decoded(owner, value)

    return check


def _decoded(owner: type, value: Any) -> Any:
    """With lists that the environment gives as JSON."""
    if not isinstance(value, Mapping):
        return value
    lists = {name for name, hint in get_type_hints(owner).items() if get_origin(hint) is tuple}
    found = dict(value)
    for name in lists & found.keys():
        if isinstance(found[name], str):
            with contextlib.suppress(ValueError):
                found[name] = json.loads(found[name])
    return found


def _check_keys(owner: Any, value: Any, path: str) -> None:
    if not (isinstance(value, Mapping) and is_dataclass(owner)):
        return
    known = get_type_hints(owner)
    for key, inner in value.items():
        if key not in known:
            raise ValueError(f"unknown field {path + key!r}; known: {', '.join(known)}")
        _check_keys(known[key], inner, f"{path}{key}.")


class RedisSettings(BaseModel):
    """Which Redis. Without a URL the service starts a private one on a socket only this user can open."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: str | None = None
    """A Redis of yours: `redis://`, `rediss://` or `unix://`. By default a private one."""
    replica_url: str | None = None
    """The same Redis with the replicas' own user; by default that of url."""
    learner_url: str | None = None
    """The same Redis with the learner's own user; by default that of url."""
    control_url: str | None = None
    """The same Redis with control's own user; by default that of url."""
    prefix: str = "od"
    """What all key names start with; another one for each service that shares a Redis."""
    maxmemory: str = "256mb"
    """Memory of the private Redis."""


class RaySettings(BaseModel):
    """Which Ray. Without an address the service starts a private one on loopback."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    address: str | None = None
    """A Ray of yours, `ray://` or `host:port`. By default a private one on loopback."""
    object_store_mb: int = Field(default=100, ge=MIN_OBJECT_STORE_MB)
    """Shared memory of the private Ray."""
    temp_dir: Path = Path("/tmp")
    """Where sockets and files of the private Redis and Ray lie; short paths only."""
    other_code: bool = False
    """Nodes with other code than the service was deployed from serve, too: while these are replaced."""


class TlsSettings(BaseModel):
    """HTTPS instead of HTTP. Certificate (with its chain) and private key go together."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cert: Path | None = None
    """Certificate and chain, PEM."""
    key: Path | None = None
    """Its private key, PEM, without a password."""

    @model_validator(mode="after")
    def _together(self) -> TlsSettings:
        if (self.cert is None) != (self.key is None):
            raise ConfigError("tls", "cert and key go together; one is missing")
        for name, path in (("cert", self.cert), ("key", self.key)):
            if path is not None and not os.access(path, os.R_OK):
                raise ConfigError(f"tls.{name}", f"{path} can't be read")
        return self


class WebhookSettings(BaseModel):
    """Who is told of alarms and rollbacks over HTTP. URLs are secrets like the secret: better in the
    environment than in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: SecretStr | None = None
    """Gets alarms and rollbacks as JSON (POST): http:// or https://."""
    slack_url: SecretStr | None = None
    """Gets them as messages of Slack: an incoming webhook, or what understands its messages."""
    secret: SecretStr | None = None
    """Signs what `url` gets: X-Online-Draft-Signature."""
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    """How long a receiver may take to accept a connection, and again to answer."""
    give_up_s: float = Field(default=3600.0, gt=0)
    """A message that wasn't delivered for so long is dropped."""

    @field_validator("url", "slack_url")
    @classmethod
    def _is_http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            try:
                parts = urlsplit(url.get_secret_value())
                fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                fits = False
            if not fits:
                raise ValueError("must be a URL, http:// or https://")
        return url

    def revealed(self) -> dict[str, Any]:
        """Plain data, secrets in the open: for the processes that use them."""
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in self
        }
