"""From settings to what the actors receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_draft.errors import ConfigError, TargetError
from online_draft.launch.ports import is_loopback
from online_draft.serve.api.prompts import PromptEncoder, tokenizer_directory
from online_draft.serve.config import ListenConfig, ServiceConfig
from online_draft.settings import Settings
from online_draft.store.keys import of_realm

if TYPE_CHECKING:
    from online_draft.serve.application import Part


def service_config(settings: Settings, redis_url: str, admin_key: str) -> ServiceConfig:
    """What ingress and replicas receive."""
    target = settings.target
    if Path(target).expanduser().is_dir():
        target = str(Path(target).expanduser().resolve())
    return ServiceConfig(
        target=target,
        model_name=settings.served_name,
        store=settings.artifacts,
        cache_dir=str(settings.cache_dir),
        redis_url=redis_url,
        admin_key=admin_key,
        aliases=settings.aliases,
        realm=settings.realm,
        redis_prefix=settings.redis.prefix,
        replica_redis_url=settings.redis.replica_url,
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


def service_parts(
    settings: Settings, redis_url: str, admin_key: str, listen: ListenConfig | None = None
) -> list[Part]:
    """The replicas of every model. Models on one GPU share what a single one would take of it."""
    from online_draft.serve.application import Part  # imports ray, whose environment comes first

    gpus = 0.5 / _on_gpu(settings)
    return [
        Part(
            replace(service_config(model, redis_url, admin_key), listen=listen),
            model.replicas,
            gpus=gpus if model.device == "cuda" else 0.0,
        )
        for model in settings.each
    ]


def actor_places(
    settings: Settings, parts: Sequence[Part], fingerprints: Sequence[str], namespace: str
) -> list[tuple[Settings, dict[str, Any]]]:
    """Of every model its settings, and where its learner and control live."""
    realms = [part.config.realm for part in parts]
    found = []
    for model, part, fingerprint in zip(settings.each, parts, fingerprints, strict=True):
        place = actor_place(model, part.config, fingerprint, namespace)
        if len(realms) > 1:
            place["neighbours"] = tuple(realm for realm in realms if realm != part.config.realm)
            place["gpu_share"] = 0.25 / _on_gpu(settings)
        found.append((model, place))
    return found


def check_targets(settings: Settings) -> None:
    """Read every target's tokenizer. TargetError, or ConfigError naming the model of several."""
    for model in settings.each:
        try:
            PromptEncoder(tokenizer_directory(model.target), model.engine.max_context)
        except TargetError as error:
            if not settings.models:
                raise
            raise ConfigError(
                f"models.{model.served_name}.target",
                f"must be embedded, a directory of a model or a Hub name: {error}",
            ) from error


def _on_gpu(settings: Settings) -> int:
    return max(1, sum(model.device == "cuda" for model in settings.each))


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
        "realm": config.realm,
        "tree_nodes": config.engine.tree_nodes,
        "namespace": namespace,
        "log": asdict(config.log),
    }


def learner_place(place: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The same for the learner alone: with its own name in Redis, if it has one, and where its model's
    replicas are."""
    from online_draft.serve.application import APP_NAME, REPLICA  # imports ray, as above

    return {
        **place,
        "redis_url": settings.redis.learner_url or place["redis_url"],
        "app": APP_NAME,
        "deployment": of_realm(REPLICA, settings.realm),
    }


def control_place(place: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The same for control, and whom it tells of alarms."""
    return {
        **place,
        "redis_url": settings.redis.control_url or place["redis_url"],
        "webhooks": {**settings.webhooks.revealed(), "model": settings.served_name},
    }
