"""Sections of the settings that have no owner elsewhere, and how those that have are checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, model_validator

from online_draft.errors import ConfigError

MIN_OBJECT_STORE_MB = 80
"""Ray refuses less than 75 MiB."""


def only_fields_of(owner: type) -> Callable[[Any], Any]:
    """Refuse misspelt keys of a section whose dataclass lives beside its owner, at any depth."""

    def check(value: Any) -> Any:
        _check_keys(owner, value, "")
        return value

    return check


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
