"""From settings to what the actors receive."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from online_draft.launch.ports import is_loopback
from online_draft.serve.config import ServiceConfig
from online_draft.settings import Settings


def service_config(settings: Settings, redis_url: str, admin_key: str) -> ServiceConfig:
    """What ingress and replicas receive."""
    target = settings.target
    if Path(target).expanduser().is_dir():
        target = str(Path(target).expanduser().resolve())
    return ServiceConfig(
        target=target,
        model_name=settings.served_name,
        store=settings.artifacts,
        cache_dir=str(settings.state_dir / "cache"),
        redis_url=redis_url,
        admin_key=admin_key,
        redis_prefix=settings.redis.prefix,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        drafter=settings.drafter,
        engine=settings.engine,
        writer=settings.buffer,
        access=replace(settings.access, keys_file=str(settings.keys_file)),
        keys_required=not is_loopback(settings.host),
        log=replace(settings.log, file=str(settings.log_file)),
        scaling=settings.scaling,
    )


def actor_place(
    settings: Settings, config: ServiceConfig, fingerprint: str, namespace: str
) -> dict[str, Any]:
    """Where learner and control live: plain data, the same for both."""
    return {
        "target": config.target,
        "fingerprint": fingerprint,
        "device": config.device,
        "dtype": config.dtype,
        "store": config.store,
        "cache_dir": config.cache_dir,
        "redis_url": config.redis_url,
        "redis_prefix": config.redis_prefix,
        "tree_nodes": config.engine.tree_nodes,
        "namespace": namespace,
        "log": asdict(config.log),
    }
