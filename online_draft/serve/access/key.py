"""An API key as the service knows it: a digest, and what it stands for."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from online_draft.core import DEFAULT_TENANT
from online_draft.errors import ConfigError

SECRET_PREFIX = "sk-od-"
MAX_SECRET_CHARACTERS = 512

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIMITS = ("requests_per_minute", "tokens_per_minute", "max_streams")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. `digest` is the SHA-256 of its secret, in hex; the secret itself is known to its owner alone.

    Requests belong to `tenant` (by default the key's own name): it bounds what prefix cache, n-gram memory
    and replay share. A lower `priority` comes first. Limits are None for unlimited. Without `learn` no record
    is kept of what was asked and answered. An `admin` key opens `/admin` too. `models` are the names of those
    that it may use, None for all.
    """

    name: str
    digest: str
    tenant: str = ""
    priority: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_streams: int | None = None
    learn: bool = True
    admin: bool = False
    models: tuple[str, ...] | None = None
    created: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self.digest.removeprefix("sha256:").lower())
        object.__setattr__(self, "tenant", self.tenant or self.name)

    @property
    def limited(self) -> bool:
        """Whether anything about it has to be counted."""
        return any(getattr(self, name) is not None for name in _LIMITS)

    def check(self, where: str = "access.keys") -> None:
        """Raise ConfigError naming the first wrong field, after `where` (the file, or the setting)."""
        for name in ("name", "tenant"):
            if not _NAME.fullmatch(getattr(self, name)):
                raise ConfigError(
                    where,
                    f"{name}: 1 to 64 of A-Z a-z 0-9 _ . -, starting with a letter or digit; "
                    f"got {getattr(self, name)!r}",
                )
        if not _DIGEST.fullmatch(self.digest):
            raise ConfigError(where, f"digest of key {self.name}: must be a SHA-256 in 64 hex digits")
        if self.models is not None and not all(self.models):
            raise ConfigError(where, f"models of key {self.name}: names of models, or absent for all")
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    where, f"{name} of key {self.name}: must be at least 1, or absent; got {value}"
                )

    def as_dict(self) -> dict[str, Any]:
        """What the file holds: fields that differ from their defaults."""
        shown = {"name": self.name, "digest": self.digest, "tenant": self.tenant}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name not in shown and value != entry.default:
                shown[entry.name] = value
        return shown

    @classmethod
    def from_entry(cls, entry: Any, where: str) -> ApiKey:
        """From one entry of a file or a setting: a mapping of fields, or a bare digest. ConfigError."""
        if isinstance(entry, str):
            digest = entry.removeprefix("sha256:").lower()
            key = cls(name=f"key-{digest[:8]}", digest=digest)
        elif isinstance(entry, Mapping):
            key = cls(**_checked(entry, where))
        else:
            raise ConfigError(where, f"a key is an object or a SHA-256 digest, got {entry!r}")
        key.check(where)
        return key


ANYONE = ApiKey(name="anyone", digest="", tenant=DEFAULT_TENANT)
"""Who asks while no key is asked for. Its empty digest is no secret's."""


def digest_of(secret: str) -> str:
    """The SHA-256 of a secret, in hex. Secrets are random and long, so a fast digest hides them well."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_secret() -> str:
    """A fresh secret of 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def check_distinct(keys: tuple[ApiKey, ...], where: str) -> None:
    """ConfigError when two keys share a name or a secret."""
    for name in ("name", "digest"):
        values = [getattr(key, name) for key in keys]
        doubled = next((value for value in values if values.count(value) > 1), None)
        if doubled is not None:
            raise ConfigError(where, f"two keys have the {name} {doubled!r}")


def _checked(entry: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The entry's fields with the right types."""
    known = {field.name: field.type for field in fields(ApiKey)}
    checked = dict(entry)
    if isinstance(names := entry.get("models"), list) and all(isinstance(name, str) for name in names):
        checked["models"] = tuple(names)
    for name, value in checked.items():
        if name not in known:
            raise ConfigError(where, f"a key has no field {name!r}; known: {', '.join(known)}")
        kind = str(known[name])
        wanted: type = {"s": str, "i": int, "b": bool, "t": tuple}[kind[0]]
        optional = "None" in kind and value is None
        if not optional and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
            raise ConfigError(where, f"{name}: must be {_SHOWN.get(kind, kind)}, got {value!r}")
    for name in ("name", "digest"):
        if name not in entry:
            raise ConfigError(where, f"a key needs the field {name}")
    return checked


_SHOWN = {"int | None": "int or null", "tuple[str, ...] | None": "a list of names, or null"}
