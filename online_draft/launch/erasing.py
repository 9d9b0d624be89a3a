"""Erasing a tenant while no system runs: on the artifact store itself, and in a Redis of one's own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.sweeping import sweep
from online_draft.errors import ConfigError
from online_draft.launch.run_file import find_run_files
from online_draft.learner.checkpoint import erase_elsewhere
from online_draft.settings import Settings
from online_draft.store import ArtifactStore, RedisKeys, connect_redis


def erase_offline(settings: Settings, tenant: str) -> dict[str, Any]:
    """Take a tenant out of every learner's checkpoints, and out of the stream if Redis is not a private one,
    which ended with its system. Idempotent. ConfigError while a system runs from here; StoreError."""
    here = settings.state_dir.resolve()
    for run in find_run_files(settings.state_dir):
        if run.alive and Path(run.state_dir).resolve() == here:
            raise ConfigError("offline", f"a system runs at {run.url}; leave out --offline")
    report = _erase(settings, tenant)
    models = {model.served_name: _erase(model, tenant) for model in settings.further}
    if models:
        report["models"] = models
        report["complete"] &= all(other["complete"] for other in models.values())
    return report


def _erase(settings: Settings, tenant: str) -> dict[str, Any]:
    """One model's part."""
    store = ArtifactStore(settings.artifacts)
    log = ErasureLog(store)
    request = log.request(tenant)
    erase_elsewhere(store, None, log.read())
    stream: dict[str, Any] = {"skipped": "a private Redis keeps nothing while no system runs"}
    if settings.redis.url is not None:
        client = connect_redis(settings.redis.url)
        try:
            stream = asdict(sweep(client, RedisKeys(settings.redis.prefix, settings.realm), tenant))
        finally:
            client.close()
    return {
        "request": request.number,
        "tenant": tenant,
        "stream": stream,
        "learner": "settled",
        "complete": settings.redis.url is None or stream["unreadable"] == 0,
    }
