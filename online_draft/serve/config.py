"""What one service is made of, as its Ray actors receive it: plain data, no live objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from online_draft.buffer.writer import WriterConfig
from online_draft.decoding.config import EngineConfig
from online_draft.logs import LogConfig
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.fleet.scaling import ScalingConfig
from online_draft.store import RedisKeys


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """For ingresses that speak HTTP themselves. `door` is the path of the unix socket at which they get the
    listening socket. HTTPS with `cert` and `key`, PEM files."""

    door: str
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One target's service; several share ingresses, each in a `realm` of its own (of the first it is "").

    `store` is the artifact file system (path or URL), `cache_dir` a local directory for fetched drafters;
    `drafter` names what a fresh journal starts with: a shipped drafter (`baseline`, `narrow`), a directory,
    `untrained`, `ngram` (none: the n-gram memory drafts alone until a version is promoted), or None for
    `baseline` if it ships with the target, else `untrained`. `keys_required` asks for API keys even while
    there are none. `replica_redis_url` is the same Redis with a user that may do less.
    With `listen` ingresses speak HTTP themselves, else Ray Serve's proxy does.
    On a cluster (`shared`) replicas compare their targets; none serves with other code than `code`, if that
    is set.
    """

    target: str
    model_name: str
    store: str
    cache_dir: str
    redis_url: str
    admin_key: str
    aliases: tuple[str, ...] = ()
    realm: str = ""
    redis_prefix: str = "od"
    replica_redis_url: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    drafter: str | None = None
    poll_interval_s: float = 1.0
    hang_after_s: float = 30.0
    engine: EngineConfig = field(default_factory=EngineConfig)
    writer: WriterConfig = field(default_factory=WriterConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    keys_required: bool = False
    log: LogConfig = field(default_factory=LogConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    listen: ListenConfig | None = None
    shared: bool = False
    code: str = ""

    @property
    def keys(self) -> RedisKeys:
        """The Redis names of this service."""
        return RedisKeys(self.redis_prefix, self.realm)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able data for Ray."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ServiceConfig:
        """Inverse of `as_dict`."""
        nested = {
            "aliases": tuple(raw.get("aliases", ())),
            "engine": EngineConfig(**raw["engine"]),
            "writer": WriterConfig(**raw["writer"]),
            "access": AccessConfig.from_dict(raw.get("access", {})),
            "log": LogConfig(**raw.get("log", {})),
            "scaling": ScalingConfig(**raw.get("scaling", {})),
            "listen": ListenConfig(**raw["listen"]) if raw.get("listen") else None,
        }
        return cls(**{**raw, **nested})
