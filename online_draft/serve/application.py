"""The Ray Serve application of one target or several. Only the replica's process imports torch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from online_draft.serve.config import ServiceConfig
from online_draft.serve.fleet.autoscaling import ingress_autoscaling, replica_autoscaling
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import Downlink, ReplicaLoad, Uplink
from online_draft.serve.ingress import Ingress
from online_draft.store.keys import of_realm

APP_NAME = "online-draft"
REPLICA = "Replica"
INGRESS = "Ingress"


ROUTER: Any = "online_draft.serve.fleet.routing:DirectedRouter"

REPLICA_CALLS = 10_000
"""At most so many calls and streams of ingresses at a time; the engine's own queue is the bound."""


class ServedReplica:
    """The Ray Serve deployment around `serve.replica.Replica`, which is built in its own process.

    An ingress opens one stream, and gives orders in calls of `tell`. Calls name the replica they mean (`to`,
    see `serve.routing`).
    """

    def __init__(self, raw_config: dict[str, Any]) -> None:
        from online_draft.serve.replica import Replica

        self._name = serve.get_replica_context().replica_id.unique_id
        self._channels: dict[str, Channel] = {}
        self._replica = Replica(raw_config)

    async def open(self, channel: str, to: str) -> AsyncGenerator[Downlink, None]:
        """One item per engine step with all that it gave this ingress. Nothing when another one is meant.

        Opened again behind a `last` message, it goes on without a gap.
        """
        if to != self._name:
            return
        self._channels = {name: known for name, known in self._channels.items() if not known.closed}
        opened = self._channels.get(channel) or self._replica.connect()
        self._channels[channel] = opened
        async with contextlib.aclosing(opened.down()) as messages:
            async for message in messages:
                yield message

    async def tell(self, channel: str, message: Uplink, to: str) -> ReplicaLoad | None:
        """Orders and cancellations of an open channel; None when there is no such channel here."""
        opened = self._channels.get(channel)
        if opened is None or opened.closed or to != self._name:
            return None
        opened.up(message)
        return self._replica.load()

    async def update_target(self, path: str, actor: str, reason: str, drain_s: float) -> dict[str, Any]:
        """Decide that every replica takes the weights in `path`; the decision, or what is wrong with it."""
        return await asyncio.to_thread(self._replica.update_target, path, actor, reason, drain_s)

    def status(self, to: str | None = None) -> dict[str, Any]:
        """Plain data for `/health` and the admin API."""
        return self._replica.status()

    def check_integrity(self, to: str | None = None) -> dict[str, int]:
        """For tests: AssertionError when the engine's books don't balance; else what is held now."""
        return self._replica.check_integrity()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `serve.autoscaling`."""
        return {"pressure": self._replica.load().pressure}

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose engine is dead or hangs."""
        self._replica.check_health()

    def __del__(self) -> None:
        """Ray Serve calls this when the replica is shut down in order."""
        if hasattr(self, "_replica"):
            self._replica.close()


@dataclass(frozen=True, slots=True)
class Part:
    """The replicas of one model: what they are told, how many there are, and what each takes."""

    config: ServiceConfig
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


def build_application(
    config: ServiceConfig, replicas: int = 1, cpus_per_replica: float = 1.0, gpus_per_replica: float = 0.0
) -> Application:
    """`build_service` of one model."""
    return build_service([Part(config, replicas, cpus_per_replica, gpus_per_replica)])


def build_service(parts: Sequence[Part]) -> Application:
    """Ingresses, and replicas of each model, all scaled separately. The first one's configuration holds for
    the ingresses, which ask for no CPU, so that two cores suffice."""
    first = parts[0].config
    scaling = first.scaling
    patience_s = max(part.config.scaling.drain_s + part.config.scaling.resume_s for part in parts)
    ingress = cast(Any, serve.deployment)(
        serve.ingress()(Ingress),
        name=INGRESS,
        **_number(scaling.ingresses, ingress_autoscaling(scaling, first.listen is not None)),
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        # A client's connection can't go on elsewhere: as long as what it asked for may have to.
        graceful_shutdown_timeout_s=patience_s + 10.0,
    )
    return cast(
        Application,
        ingress.bind([_replicas(part) for part in parts], [part.config.as_dict() for part in parts]),
    )


def _replicas(part: Part) -> Application:
    """The deployment of one model's replicas."""
    config, scaling = part.config, part.config.scaling
    deployment = cast(Any, serve.deployment)(
        ServedReplica,
        name=of_realm(REPLICA, config.realm),
        **_number(part.replicas, replica_autoscaling(scaling, part.replicas)),
        max_ongoing_requests=REPLICA_CALLS,
        ray_actor_options={"num_cpus": part.cpus, "num_gpus": part.gpus},
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=scaling.drain_s + 10.0,
        max_constructor_retry_count=2,
    )
    own = replace(config, redis_url=config.replica_redis_url or config.redis_url)
    return cast(Application, deployment.bind(own.as_dict()))


def _number(fixed: int, autoscaling: AutoscalingConfig | None) -> dict[str, Any]:
    return {"num_replicas": fixed} if autoscaling is None else {"autoscaling_config": autoscaling}
