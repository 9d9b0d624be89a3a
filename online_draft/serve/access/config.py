"""How access is guarded. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may use the endpoint, and the bounds that hold for everybody.

    Keys come from `keys_file` (None: `keys.json` in the state directory), which is watched, and from `keys`,
    entries as in that file or bare SHA-256 digests. A limit per minute is a bucket that an idle key fills in
    `burst_s` seconds. `open` lets everybody in without a key, wherever from; `protect_metrics` asks for an
    admin key on `/metrics`.
    """

    keys_file: str | None = None
    keys: tuple[Any, ...] = ()
    open: bool = False
    burst_s: float = 60.0
    max_prompt_tokens: int | None = None
    max_n: int = 16
    protect_metrics: bool = False
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.burst_s <= 3600:
            raise ConfigError("access.burst_s", f"must be from 1 to 3600 seconds, got {self.burst_s}")
        for name in ("max_prompt_tokens", "max_n"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"access.{name}", f"must be at least 1, got {value}")
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ConfigError(
                    "access.cors_origins",
                    f"must be origins like https://app.example.com or *, got {origin!r}",
                )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> AccessConfig:
        """Inverse of `dataclasses.asdict`, also after a trip through JSON."""
        known = {entry.name: raw[entry.name] for entry in fields(cls) if entry.name in raw}
        for name in {"keys", "cors_origins"} & known.keys():
            known[name] = tuple(known[name])
        return cls(**known)
