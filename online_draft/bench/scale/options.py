"""What `bench scale` simulates, and what it assumes of a machine with Redis and a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """`replicas` are simulated for `seconds` without requests, and for as long with `rate` requests a second
    each, of `tokens` (prompt and answer) and `segments`; then `swaps` versions of `version_kb` are promoted,
    and fetched within `spread` seconds. `size` is extrapolated to.

    Capacities that can't be measured here: `redis_mb` of memory, `store_ops` (lookups and listings a second
    of a shared file system) and `store_mb_s`, what it reads.
    """

    replicas: int = 64
    seconds: float = 20.0
    rate: float = 1.0
    tokens: int = 400
    segments: int = 4
    swaps: int = 5
    version_kb: int = 256
    spread: float = 0.5
    size: int = 1000
    redis_mb: int = 1024
    store_ops: int = 10_000
    store_mb_s: int = 1000
    json_path: Path | None = None

    def __post_init__(self) -> None:
        for name in ("replicas", "segments", "swaps", "version_kb", "size", "redis_mb", "store_ops"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.spread < 0:
            raise ConfigError("spread", f"must be at least 0, got {self.spread}")
        if not self.seconds >= 2:
            raise ConfigError("seconds", f"must be at least 2, got {self.seconds}")
        for name in ("rate", "store_mb_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be positive, got {getattr(self, name)}")
        if self.tokens < 100:
            raise ConfigError("tokens", f"must be at least 100, got {self.tokens}")
