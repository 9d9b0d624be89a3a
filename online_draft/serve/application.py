"""The Ray Serve application of one target or several. Only the replica's process imports torch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from online_draft.serve.config import ServiceConfig
from online_draft.serve.fleet.autoscaling import ingress_autoscaling, replica_autoscaling
from online_draft.serve.fleet.messages import Address
from online_draft.serve.fleet.port import ChannelPort
from online_draft.serve.ingress import Ingress
from online_draft.serve.membership import may_serve
from online_draft.store.keys import of_realm

if TYPE_CHECKING:
    from online_draft.training.prefill_order import PrefillOrder, PrefillReply

APP_NAME = "online-draft"
REPLICA = "Replica"
INGRESS = "Ingress"


ROUTER: Any = "online_draft.serve.fleet.routing:DirectedRouter"

REPLICA_CALLS = 10_000
"""At most so many calls and streams of ingresses at a time; the engine's own queue is the bound."""


class ServedReplica:
    """The Ray Serve deployment around `serve.replica.Replica`, which is built in its own process.

    An ingress opens one stream for the address of a channel, over which requests and outputs go. Calls name
    the replica they mean (`to`, see `serve.fleet.routing`).
    """

    def __init__(self, raw_config: dict[str, Any]) -> None:
        self._name = serve.get_replica_context().replica_id.unique_id
        self._port = ChannelPort(str(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call]
        with may_serve(raw_config):  # other code may have another replica
            from online_draft.serve.replica import Replica

            cluster = str(ray.get_runtime_context().get_session_name()) if raw_config["shared"] else ""
            self._replica = Replica(raw_config, cluster)

    async def open(self, to: str) -> AsyncGenerator[Address, None]:
        """Where a new channel is reached; the stream lasts as long as the channel, so that Ray knows of it.
        Nothing when another replica is meant."""
        if to != self._name:
            return
        channel = self._replica.connect()
        try:
            yield await self._port.expect(channel)
            await channel.wait_closed()
        finally:
            channel.close()

    async def update_target(self, path: str, actor: str, reason: str, drain_s: float) -> dict[str, Any]:
        """Decide that every replica takes the weights in `path`; the decision, or what is wrong with it."""
        return await asyncio.to_thread(self._replica.update_target, path, actor, reason, drain_s)

    async def prefill(self, order: PrefillOrder, avoid: Sequence[str] = ()) -> PrefillReply:
        """For the learner: hidden states of the target, or "busy". `avoid`: see `serve.fleet.routing`."""
        return await self._replica.prefill(order, self._name)

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
